"""Oracle: chi of SYSTEMS, dense, by `jax.jacobian`; the residual; backpropagation.

Catches clamped sweeps that diverge where chi has eigenvalues above 2, a relaxation that moves the equilibrium, a
measured share that is unsafe or depends on the batch, and a default that changes what converged without it.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.runs.config import identity
from epjax.systems.pcn.relaxation import chi, largest
from epjax.systems.pcn.signals import free_phase
from experiments import vgg5

pytestmark = pytest.mark.usefixtures("x64")

relu, tanh = epjax.activation.relu, epjax.activation.tanh
NETS = {"gain 1": (relu, 1.0), "gain 2": (relu, 2.0), "He": (relu, 6**0.5), "lecun tanh": (tanh, 3**0.5)}
CLAMPED = {"gain 1": 0.9988, "gain 2": 0.9878, "He": 0.9793, "lecun tanh": 0.9889}
"""The cosine of the clamped equilibrium's own gradient with backpropagation's: clamping is another cost."""


def case(name, widths=(256, 256, 10)):
    activation, gain = NETS[name]
    net = epjax.models.mlp(list(widths), activation=activation, gain=gain)
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (784,))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    x = jax.random.normal(jax.random.key(1), (8, 784), jnp.float64)
    return net, params, x, jnp.arange(8) % widths[-1], "pgd" if activation is tanh else "mod_pgd"


def estimate(given, method, **options):
    net, params, x, y, update = given
    method = replace(method, residual=True, update=update)
    ep = epjax.value_and_grad(net, "squared_error", scheme="forward", equilibration=method, **options)
    (_, aux), grads = jax.jit(ep)(params, x, y, None)
    return np.asarray(aux.solution.residual), flat(grads)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def backprop(net, params, x, y):
    return flat(epjax.backprop_value_and_grad(net, "squared_error")(params, x, y, None)[1])


@pytest.mark.fast
@pytest.mark.parametrize("name", NETS)
def test_clamped_sweeps_converge_whatever_chi(name):
    given = case(name)
    exact = backprop(*given[:4])
    for method in (epjax.Sweep(30), epjax.Sweep(60, relaxation=0.25)):
        residual, grads = estimate(given, method, perturbation="clamp", beta=0.02)
        assert residual.max() < (1e-9 if method.relaxation is None else 1e-5)
        assert cosine(grads, exact) == pytest.approx(CLAMPED[name], abs=5e-4)
    whole, _ = estimate(given, epjax.Sweep(30, relaxation=1.0), perturbation="clamp", beta=0.02)
    assert (whole.min() > 1) == (name != "gain 1")  # what it cures


@pytest.mark.parametrize("name", NETS)
def test_clamped_even_odd_iterations_converge_whatever_chi(name):
    given = case(name)
    residual, grads = estimate(given, epjax.Async(60), perturbation="clamp", beta=0.02)
    assert residual.max() < 1e-7
    assert cosine(grads, backprop(*given[:4])) == pytest.approx(CLAMPED[name], abs=5e-4)


@pytest.mark.parametrize("method", [epjax.Sweep(3), epjax.Sweep(20, tolerance=1e-6), epjax.Async(5)])
def test_gain_1_keeps_its_numbers_to_the_bit(method):
    given = case("gain 1")
    measured = estimate(given, method, perturbation="clamp")
    whole = estimate(given, replace(method, relaxation=1.0), perturbation="clamp")
    for one, other in zip(measured, whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", [epjax.Sweep(2), epjax.Async(4)])
def test_a_nudge_is_not_relaxed_unless_asked(method):
    given = case("He")
    for one, other in zip(estimate(given, method), estimate(given, replace(method, relaxation=1.0)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "relaxation", "worst", "cos"),
    [
        ("gain 1", 0.6, 1e-9, 0.993),
        ("gain 1", "auto", 1e-12, 0.993),
        ("gain 2", 0.3, 2e-2, 0.977),
        ("gain 2", "auto", 2e-2, 0.977),
        ("He", 0.15, 0.4, 0.955),  # hidden units on a kink flip at every sweep: what relaxation does not cure
        ("He", "auto", 0.4, 0.955),
        ("lecun tanh", "auto", 1e-12, 0.99),
    ],
)
def test_nudged_sweeps_converge_at_beta_1(name, relaxation, worst, cos):
    given = case(name)
    exact = backprop(*given[:4])
    residual, grads = estimate(given, epjax.Sweep(30, relaxation=relaxation), beta=1.0)
    whole, astray = estimate(given, epjax.Sweep(30), beta=1.0)
    assert residual.max() < worst
    assert cosine(grads, exact) > cos
    assert whole.min() > 1
    assert cosine(astray, exact) < 0.1


def test_the_clamped_gradient_is_that_of_the_metric_of_chi():
    """beta -> 0: eps_L = beta chi^-1 (y - h_L), so the gradient is backpropagation's of that cotangent."""
    net, params, x, y, _ = given = case("lecun tanh", (12, 9, 4))
    _, grads = estimate(given, epjax.Sweep(60), perturbation="clamp", beta=1e-7)
    outputs = jax.vmap(lambda x: net.forward(params, x)[-1])(x)
    left = jnp.linalg.solve(
        jax.vmap(lambda x: dense_chi(net, params, x))(x), (outputs - jax.nn.one_hot(y, 4, dtype=x.dtype))[..., None]
    )[..., 0]
    expected = jax.grad(lambda p: jnp.sum(left * jax.vmap(lambda x: net.forward(p, x)[-1])(x)) / 8)(params)
    np.testing.assert_allclose(grads, flat(expected), rtol=0, atol=1e-6 * np.linalg.norm(grads))


def dense_chi(net, params, x, weights=None):
    """sum_k weights_k J_k J_k^T, J_k = d h_L / d eps_k, at the free state."""

    def output(eps):
        h = x
        for k in range(1, len(net) + 1):
            h = net.predict(params[k - 1], k, h) + eps[k - 1]
        return h

    zeros = tuple(jnp.zeros_like(h) for h in net.forward(params, x))
    return sum(w * J @ J.T for w, J in zip(weights or [1] * len(net), jax.jacobian(output)(zeros), strict=True))


@pytest.mark.parametrize("name", NETS)
def test_the_susceptibility_is_the_largest_eigenvalue_of_chi(name):
    net, params, x, _, _ = case(name, (30, 20, 6))
    found = largest(chi(free_phase(net, params, x[0])), jnp.arange(1.0, 7.0), iterations=200)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(dense_chi(net, params, x[0]))[-1], rtol=1e-6)


@pytest.mark.parametrize("method", [epjax.Sweep(6), epjax.Async(6)])
@pytest.mark.parametrize("perturbation", ["clamp", "nudge"])
def test_a_measured_share_is_each_example_s_own(perturbation, method):
    net, params, x, y, _ = case("He", (20, 20, 4))
    method = replace(method, relaxation="auto", residual=True)
    ep = epjax.value_and_grad(net, "squared_error", perturbation=perturbation, beta=0.5, equilibration=method)
    one, whole = jax.jit(ep), jax.jit(ep)(params, x[:3], y[:3], None)
    parts = [one(params, x[i : i + 1], y[i : i + 1], None) for i in range(3)]
    alone = np.concatenate([aux.solution.residual for (_, aux), _ in parts])
    np.testing.assert_allclose(whole[0][1].solution.residual, alone, rtol=1e-6)
    np.testing.assert_allclose(flat(whole[1]), np.mean([flat(g) for _, g in parts], axis=0), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", [epjax.Sweep(100, tolerance=1e-8), epjax.Async(100, tolerance=1e-8)])
def test_the_tolerance_is_met_by_what_is_relaxed(method):
    net, params, x, y, update = case("lecun tanh", (20, 20, 4))
    ep = epjax.value_and_grad(
        net, "squared_error", scheme="forward", perturbation="clamp", equilibration=replace(method, update=update)
    )
    solution = jax.jit(ep)(params, x, y, None)[0][1].solution
    assert np.max(solution.residual) < 1e-7  # the stop looks at what an iteration changed
    assert np.all(np.asarray(solution.iterations) < 100)


@pytest.mark.parametrize("relaxation", [0.0, -0.5, 1.5, float("nan"), "some", [0.5]])
@pytest.mark.parametrize("method", [epjax.Sweep, epjax.Async])
def test_a_share_outside_its_set_is_refused(method, relaxation):
    with pytest.raises(ValueError, match=r"relaxation must be None, 'auto' or lie in \(0, 1\], got"):
        method(3, relaxation=relaxation)


def test_small_steps_are_not_relaxed_as_well():
    with pytest.raises(ValueError, match=r"relaxation must be None or 1 with a step_size below 1, .* got 0.5 and 0.1"):
        epjax.Async(3, update="pgd", step_size=0.1, relaxation=0.5)


def test_a_clamped_run_of_before_goes_on_with_whole_steps_only():
    """What an old run remembers lacks the option: a nudged one goes on as it is, a clamped one with --relaxation 1."""

    def read(*argv):
        return identity(vgg5.EXPERIMENT.parse(["--workdir", "w", *argv]))

    assert "relaxation" not in read()
    assert read("--relaxation", "0.5")["relaxation"] == 0.5
    assert "relaxation" in read("--perturbation", "clamp")
    assert "relaxation" not in read("--perturbation", "clamp", "--relaxation", "1.0")
    assert "relaxation" not in read("--perturbation", "clamp", "--traversal", "sync")
