"""Oracles: the same gradient at the beta that the guard leaves, and runs without it.

Would catch: a guard that changes what it need not, an example whose beta is lowered and whose gradient is not divided
by the lower one, a bound that the output passes, an option that does not reach the step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.estimator import guarded
from epjax.runs.task import gradient
from experiments import perceptron

pytestmark = pytest.mark.fast

BOUND, BETA = 0.05, 2.0


@pytest.fixture(scope="module")
def problem():
    """A dense network of three layers in float64, eight examples."""
    with jax.enable_x64(True):
        net = epjax.models.mlp([12, 12, 4], gain=1.7)
        keys = jax.random.split(jax.random.key(0), 2)
        params = jax.tree.map(lambda p: p.astype(jnp.float64), net.init(keys[0], (6,)))
        yield net, params, jax.random.normal(keys[1], (8, 6), jnp.float64), jnp.arange(8) % 4


def shares(net, params, x, y, beta):
    """By the formula, from the forward pass and `jax.grad` alone."""
    out = jax.vmap(lambda one: net.forward(params, one)[-1])(x)
    force = jax.vmap(jax.grad(epjax.cost.cross_entropy))(out, y)
    norm = np.linalg.norm
    return np.minimum(1, BOUND * norm(out, axis=1) / (beta * norm(force, axis=1)))


@pytest.mark.parametrize("scheme", ["centered", "forward", "random"])
def test_it_is_the_gradient_at_each_example_s_lowered_beta(problem, scheme):
    net, params, x, y = problem
    options, key = {"scheme": scheme, "equilibration": epjax.Sweep(3)}, jax.random.key(1)
    lowered = BETA * shares(net, params, x, y, BETA)
    assert 1e-3 * BETA < lowered.min() < lowered.max() < BETA
    (_, aux), ours = epjax.value_and_grad(net, "cross_entropy", beta=BETA, guard=BOUND, **options)(params, x, y, key)
    _, theirs = epjax.value_and_grad(net, "cross_entropy", beta=jnp.asarray(lowered), **options)(params, x, y, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), ours, theirs)
    assert bool(jnp.all(aux.solution.displacement[..., -1] < 1.1 * BOUND))


def test_it_changes_nothing_where_the_bound_is_not_met(problem):
    net, params, x, y = problem
    plain, kept = (
        epjax.value_and_grad(net, "cross_entropy", beta=1e-3, guard=guard)(params, x, y)[1] for guard in (None, 10.0)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, kept)


def test_it_is_nearer_to_backpropagation_where_beta_is_too_large(problem):
    net, params, x, y = problem
    exact = epjax.backprop_value_and_grad(net, "cross_entropy")(params, x, y)[1]

    def distance(guard):
        grads = epjax.value_and_grad(net, "cross_entropy", beta=BETA, guard=guard)(params, x, y)[1]
        far = [np.linalg.norm(a - b) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True)]
        return np.linalg.norm(far) / np.linalg.norm([np.linalg.norm(b) for b in jax.tree.leaves(exact)])

    assert distance(BOUND) < 0.3 * distance(None)


def test_an_output_of_zero_keeps_a_thousandth():
    zero = jnp.zeros(3, jnp.float32)
    share = guarded(zero, epjax.cost.cross_entropy, jnp.int32(1), jnp.float32(0.5), BOUND)
    assert float(share) == pytest.approx(1e-3)


@pytest.mark.parametrize("guard", [0, -1.0, float("inf"), float("nan"), True, "large"])
def test_a_bound_that_is_none(problem, guard):
    with pytest.raises(ValueError, match="guard must be a positive share of the output's norm, or None, got"):
        epjax.value_and_grad(problem[0], "cross_entropy", guard=guard)


def test_what_it_does_not_go_with(problem):
    with pytest.raises(ValueError, match="guard must be None with perturbation 'clamp'"):
        epjax.value_and_grad(problem[0], "squared_error", perturbation="clamp", guard=BOUND)
    device = epjax.hardware.Device(problem[0], read_noise=1e-3)
    with pytest.raises(ValueError, match="guard must be None on a device"):
        epjax.value_and_grad(device, "squared_error", guard=BOUND, errors="recomputed")


def test_the_option_reaches_the_step():
    config = perceptron.EXPERIMENT.parse(["--workdir", "w", "--data", "demo", "--beta-guard", "0.05", "--beta", "2"])
    net = perceptron.EXPERIMENT.make_network(config, 10)
    params = net.init(jax.random.key(0), (28, 28, 3))
    x, y = jax.random.normal(jax.random.key(1), (4, 28, 28, 3)), jnp.arange(4, dtype=jnp.int32)
    (_, aux), _ = gradient(config.gradient, net, 10)(params, x, y, jax.random.key(2))
    assert float(aux.solution.displacement[..., -1].max()) < 0.06
