"""Oracle: float64 jax.grad. EP equals it as beta -> 0, and differs at finite beta by the order that theory says.

Catches an estimator that is biased, a wave that is cut short, a gradient taken at the wrong state, errors that are
carried wrongly, and EP that is quietly replaced by backpropagation.
"""

import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import Activation, gelu, hard_tanh, identity, relu, sigmoid, silu, softplus, tanh
from epjax.network.drive import Conv, Dense

CE, SE = epjax.cost.cross_entropy, epjax.cost.squared_error
elu = Activation("elu", jax.nn.elu)
pytestmark = pytest.mark.usefixtures("x64")


def float64(tree):
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def case(net, shape, batch=3, classes=4):
    params = float64(net.init(jax.random.key(0), shape))
    x = jax.random.normal(jax.random.key(1), (batch, *shape), jnp.float64)
    return net, params, x, jnp.arange(batch) % classes


def smooth_mlp(layers=4):
    return case(epjax.models.mlp([7] * (layers - 1) + [4], activation=tanh, gain=1.7), (5,))


def conv_net(activation, skips=True):
    """Four convolutions and a dense output, with skips 1 -> 4 and 2 -> 5 as in VGG10Skip."""
    layers = [
        epjax.Layer(Conv(4, pool=True, gain=2.0), activation),
        epjax.Layer(Conv(5, gain=2.0), activation),
        epjax.Layer(Conv(4, pool=True, gain=2.0), activation),
        epjax.Layer(Conv(3, gain=2.0), activation, skips=(1,) if skips else ()),
        epjax.Layer(Dense(6, gain=2.0), activation, skips=(2,) if skips else ()),
        epjax.Layer(Dense(4, gain=2.0), identity),
    ]
    return epjax.Network(tuple(layers))


def relative_error(grads, exact):
    g, e = (jnp.concatenate([v.ravel() for v in jax.tree.leaves(t)]) for t in (grads, exact))
    return float(jnp.linalg.norm(g - e) / jnp.linalg.norm(e))


def errors_over(betas, problem, cost=CE, **options):
    """Relative gradient error at each beta, in one compiled program."""
    net, params, x, y = problem

    @jax.jit
    def both(beta):
        ep = epjax.value_and_grad(net, cost, beta=beta, **options)
        bp = epjax.backprop_value_and_grad(net, cost)
        return ep(params, x, y, jax.random.key(7))[1], bp(params, x, y, None)[1]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "iterations=")
        return np.array([relative_error(*both(jnp.float64(b))) for b in betas])


METHODS = {
    "sweep": (epjax.Sweep(1, update="pgd"), "carried"),
    "sweeps": (epjax.Sweep(3, update="pgd"), "carried"),
    "async carried": (epjax.Async(2, update="pgd"), "carried"),
    "async recomputed": (epjax.Async(4, update="pgd"), "recomputed"),
    "small steps": (epjax.Async(300, update="pgd", step_size=0.5), "carried"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scheme", "order"), [("centered", 2), ("forward", 1), ("backward", 1), ("random", 1)])
def test_order_of_the_error(method, scheme, order):
    """The slope of log error over log beta: 2 for centered, 1 for the one-sided schemes."""
    betas = np.array([4e-3, 2e-3, 1e-3, 5e-4])
    equilibration, errors = METHODS[method]
    measured = errors_over(betas, smooth_mlp(), scheme=scheme, equilibration=equilibration, errors=errors)
    slope = np.polyfit(np.log(betas), np.log(measured), 1)[0]
    assert abs(slope - order) < 0.05, (slope, measured)


@pytest.mark.parametrize(
    ("scheme", "points", "betas"),
    [
        ("centered", 2, [0.02, 0.01, 0.005]),
        ("centered", 3, [0.02, 0.01, 0.005]),
        ("holomorphic", 1, [0.02, 0.01, 0.005]),
        ("holomorphic", 2, [0.1, 0.05, 0.025]),
        ("holomorphic", 3, [0.1, 0.05, 0.025]),
    ],
)
def test_more_points_take_the_error_to_a_higher_order(scheme, points, betas):
    """Slope 2 N. A wrong coefficient leaves 2 or 0, a root or a conjugate too many leaves 0 or 1."""
    method = epjax.Sweep(1, update="pgd")
    measured = errors_over(betas, smooth_mlp(), scheme=scheme, points=points, equilibration=method)
    slope = np.polyfit(np.log(betas), np.log(measured), 1)[0]
    assert abs(slope - 2 * points) < 0.1, (slope, measured)


@pytest.mark.parametrize("scheme", ["centered", "holomorphic"])
def test_points_through_convolutions_skips_and_iterations(scheme):
    """Even/odd iterations with a residual, phases in sequence, the input's gradient, a strength for each example."""
    layers = [(Conv(3, gain=2.0), gelu, ()), (Dense(5), silu, ()), (Dense(6, gain=2.0), sigmoid, (0,))]
    net = epjax.Network((*(epjax.Layer(*layer) for layer in layers), epjax.Layer(Dense(4), identity)))
    _, params, x, y = case(net, (4, 4, 2))
    options = {"equilibration": epjax.Async(2, update="pgd", residual=True), "phases": "sequential"}
    options |= {"scheme": scheme, "points": 2, "argnums": (0, 1), "beta": jnp.array([0.01, 0.02, 0.03])}
    (cost, aux), grads = jax.jit(epjax.value_and_grad(net, CE, **options))(params, x, y, None)
    (same, _), exact = jax.jit(epjax.backprop_value_and_grad(net, CE, argnums=(0, 1)))(params, x, y, None)
    assert relative_error(grads, exact) < 1e-6
    np.testing.assert_allclose(cost, same, rtol=1e-12)
    assert aux.output.dtype == aux.solution.residual.dtype == jnp.float64
    assert aux.solution.residual.shape == (3, {"centered": 4, "holomorphic": 3}[scheme])


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (epjax.models.mlp([5, 4]), {}, "layer 1 has 'relu': use smooth functions, or scheme='centered' with points"),
        (conv_net(tanh), {}, r"layer 1 \(Conv\) computes .*select_n"),
        (
            epjax.from_flax([lambda h: h.reshape((h.shape[0], -1)), nn.Dense(3), nn.LayerNorm(), nn.Dense(4)]),
            {},
            r"layer 2 \(LayerNorm\) computes .*real",
        ),
        (epjax.Network((epjax.Layer(Dense(4), elu),)), {}, r"layer 1 \(Dense\) computes .*select_n"),
        (epjax.models.mlp([4]), {"points": 0}, "points must be 1, or more with .*, got 0"),
        (epjax.models.mlp([4]), {"scheme": "forward", "points": 2}, "points must be 1, or more with .*, got 2"),
        (epjax.models.mlp([4], precision="tf32"), {}, "needs precision='float32', got 'tf32'"),
    ],
)
def test_what_is_not_analytic_is_refused(net, options, message):
    options = {"scheme": "holomorphic", "equilibration": epjax.Sweep(1, update="pgd"), **options}
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: epjax.value_and_grad(net, CE, **options)(*case(net, (8, 8, 2))[1:], None))


@pytest.mark.parametrize("cost", [CE, SE])
@pytest.mark.parametrize("L", [3, 4, 5])
def test_even_odd_is_exact_at_K_equal_L_and_not_before(L, cost):
    """Recomputed errors need the wave to come down and go up again: K = L iterations."""
    problem = smooth_mlp(L)
    exact = [
        errors_over([1e-5], problem, cost, equilibration=epjax.Async(K, update="pgd"), errors="recomputed")[0]
        for K in (L - 1, L)
    ]
    assert exact[0] > 1e-2
    assert exact[1] < 1e-8


@pytest.mark.parametrize("L", [4, 5, 6])
def test_carried_errors_are_exact_once_the_wave_has_passed(L):
    """Carried errors are right as soon as the wave has come down: L half-steps after the output moved."""
    problem = smooth_mlp(L)
    K = (L + 1) // 2
    exact = [errors_over([1e-5], problem, equilibration=epjax.Async(k, update="pgd"))[0] for k in (K - 1, K)]
    assert exact[0] > 1e-2
    assert exact[1] < 1e-8


@pytest.mark.parametrize("activation", [softplus, gelu, relu, hard_tanh])
@pytest.mark.parametrize("method", [epjax.Sweep(1), epjax.Async(6)])
def test_convolutions_pooling_and_skips(activation, method):
    """Every activation, with skips, through the library's own convolution and pooling."""
    update = "pgd" if activation.bounds is None else "mod_pgd"
    method = type(method)(1 if isinstance(method, epjax.Sweep) else 6, update=update)
    problem = case(conv_net(activation), (8, 8, 2))
    assert errors_over([1e-6], problem, equilibration=method)[0] < 1e-8


@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("scheme", ["centered", "forward", "random"])
def test_a_sweep_is_not_backpropagation(sweeps, scheme):
    """At finite beta the gradient is that of the nudged state; only in the limit is it backpropagation's."""
    problem = case(conv_net(relu), (8, 8, 2))
    at = errors_over([0.5, 1e-6], problem, scheme=scheme, equilibration=epjax.Sweep(sweeps))
    assert at[0] > 1e-3
    assert at[1] < 1e-5


@pytest.mark.parametrize("traversal", ["sweep", "async"])
def test_the_gradient_is_that_of_the_total_energy(traversal):
    """At any beta, converged: jax.grad of F for theta at the returned states, whatever the estimator carried."""
    net, params, x, y = case(conv_net(softplus), (8, 8, 2))
    beta = 0.3
    method = epjax.Sweep(60, update="pgd") if traversal == "sweep" else epjax.Async(60, update="pgd")
    (_, _), grads = jax.jit(epjax.value_and_grad(net, CE, scheme="forward", beta=beta, equilibration=method))(
        params, x, y, None
    )
    h, _ = jax.jit(jax.vmap(partial(_solve, net, params, method, beta)))(x, y)
    F = jax.vmap(partial(epjax.energy.total_energy, net, CE), in_axes=(None, 0, 0, None, 0))
    expected = jax.grad(lambda p: jnp.mean(F(p, x, y, jnp.float64(beta), h)) / beta)(params)
    assert relative_error(grads, expected) < 1e-9


def _solve(net, params, method, beta, x, y):
    from epjax.perturbation import Nudge
    from epjax.systems.pcn.problem import Problem, equilibrate
    from epjax.systems.pcn.signals import free_phase

    solution = equilibrate(Problem(net, params, free_phase(net, params, x), Nudge(CE, y, jnp.float64(beta))), method)
    return solution.h, solution.errors


def test_backpropagation_is_jax_grad():
    net, params, x, y = smooth_mlp()
    (cost, aux), grads = epjax.backprop_value_and_grad(net, CE)(params, x, y, None)
    plain = lambda p: jnp.mean(jax.vmap(lambda x, y: CE(net.forward(p, x)[-1], y))(x, y))  # noqa: E731
    assert relative_error(grads, jax.grad(plain)(params)) < 1e-14
    np.testing.assert_allclose(cost, plain(params), rtol=1e-14)
    assert aux.solution is None


def test_soft_labels_equal_integer_labels():
    net, params, x, y = smooth_mlp()
    ep = jax.jit(epjax.value_and_grad(net, CE, beta=0.1, equilibration=epjax.Sweep(1, update="pgd")))
    one_hot = jax.nn.one_hot(y, 4, dtype=jnp.float64)
    assert relative_error(ep(params, x, one_hot, None)[1], ep(params, x, y, None)[1]) < 1e-14
