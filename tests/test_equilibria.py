"""Oracle: the plain form of the same thing. Fast paths against slow ones, stops against the gradient of F.

Catches a skipped layer that mattered, a loop that differs from its laid-out form, a stop that never fires or fires
early, an example that depends on its batch, a phase that depends on the other.
"""

import dataclasses
import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

import epjax
from epjax.network.activation import identity, relu, softplus
from epjax.network.drive import Conv, Dense
from epjax.perturbation import Clamp, Nudge
from epjax.systems.pcn.problem import Problem, equilibrate
from epjax.systems.pcn.signals import free_phase

CE = epjax.cost.cross_entropy
pytestmark = pytest.mark.usefixtures("x64")


def network(activation=relu, extra=0):
    """Convolutions with skips of both kinds, L = 5 (or 6), wide enough for the wave to matter."""
    layers = [
        epjax.Layer(Conv(4, pool=True, gain=2.0), activation),
        epjax.Layer(Conv(5, gain=2.0), activation),
        epjax.Layer(Conv(4, gain=2.0), activation),
        epjax.Layer(Conv(3, pool=True, gain=2.0), activation, skips=(1,)),
        *[epjax.Layer(Dense(6, gain=2.0), activation)] * extra,
        epjax.Layer(Dense(4, gain=2.0), identity),
    ]
    return epjax.Network(tuple(layers))


def data(net, batch=3):
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (8, 8, 2)))
    x = jax.random.normal(jax.random.key(1), (batch, 8, 8, 2), jnp.float64)
    return params, x, jnp.arange(batch) % 4


def solver(net, method, beta=0.1, perturbation="nudge", errors="carried"):
    def solve(params, x, y):
        free = free_phase(net, params, x)
        b = jnp.asarray(beta, x.dtype)
        push = (
            Nudge(CE, y, b) if perturbation == "nudge" else Clamp(jax.nn.one_hot(y, 4, dtype=x.dtype), free.output, b)
        )
        return equilibrate(Problem(net, params, free, push, errors), method)

    return jax.jit(jax.vmap(solve, in_axes=(None, 0, 0)))


def assert_same(one, two, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
@pytest.mark.parametrize("K", [1, 2, 4, 7])
def test_skipping_unreached_layers_changes_nothing(K, perturbation, extra):
    """L odd and even: the output moves in the second or the first half-step."""
    net = network(extra=extra)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "iterations=")
        plain, skipping = (
            solver(net, epjax.Async(K, skip_unreached=skip), perturbation=perturbation)(*data(net))
            for skip in (False, True)
        )
    assert_same((plain.h, plain.errors), (skipping.h, skipping.errors))


@pytest.mark.parametrize("method", [epjax.Sweep(4), epjax.Async(6), epjax.Sync(4)])
def test_laid_out_equals_looped(method):
    net = network()
    laid_out = dataclasses.replace(method, unroll=10)
    assert_same(solver(net, method)(*data(net)), solver(net, laid_out)(*data(net)))


MARK = Primitive("mark")
BATCHED: list[int] = []


def _batched(args, dims):
    BATCHED.append(1)
    return MARK.bind(*args), dims[0]


MARK.def_abstract_eval(lambda v: v)
ad.deflinear2(MARK, lambda tangent, _: [tangent])
batching.primitive_batchers[MARK] = _batched


class Marked(nn.Module):
    """W h, which tells how often it is mapped."""

    @nn.compact
    def __call__(self, h):
        return nn.Dense(4, param_dtype=h.dtype)(MARK.bind(h))


@pytest.mark.parametrize("method", [epjax.Async(20, skip_unreached=False), epjax.Sync(20, update="pgd", step_size=0.1)])
def test_a_loop_is_mapped_in_a_time_linear_in_depth(method):
    """Over phases that share a free state: not once for each layer that the wave reaches."""

    def times(L):
        net = epjax.Network([epjax.Layer(Marked(), identity) for _ in range(L)])
        params = tuple({"Dense_0": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}} for _ in range(L))
        BATCHED.clear()
        gradient = epjax.value_and_grad(net, CE, scheme="centered", equilibration=method)
        jax.make_jaxpr(gradient)(params, jnp.ones((2, 4)), jnp.zeros(2, int), None)
        return len(BATCHED)

    assert 0 < times(12) < 2.2 * times(6)


@pytest.mark.parametrize("method", [epjax.Sweep(1), epjax.Async(5), epjax.Sync(2)])
@pytest.mark.parametrize("scheme", ["centered", "random"])
def test_a_batch_is_its_examples(method, scheme):
    """The batch gradient is the mean of single-example gradients with the same signs, together or in sequence."""
    if isinstance(method, epjax.Sweep):  # in sequence nothing can be shared
        method = dataclasses.replace(method, signals="own", products="own")
    net = network()
    params, x, y = data(net)
    key = jax.random.key(3)
    ep = partial(epjax.value_and_grad, net, CE, beta=0.1, equilibration=method)
    (_, aux), grads = jax.jit(ep(scheme=scheme))(params, x, y, key)
    if scheme == "centered":
        single = jax.jit(ep(scheme=scheme))
        parts = [single(params, x[i : i + 1], y[i : i + 1], None)[1] for i in range(3)]
        (_, in_sequence), sequential = jax.jit(ep(scheme=scheme, phases="sequential"))(params, x, y, None)
        assert_same(grads, sequential)
        assert_same(aux.solution, in_sequence.solution)
    else:
        signs = jax.random.rademacher(key, (3, 1), jnp.float64)[:, 0]
        one_sided = {s: jax.jit(ep(scheme=n)) for s, n in ((1.0, "forward"), (-1.0, "backward"))}
        parts = [one_sided[float(s)](params, x[i : i + 1], y[i : i + 1], None)[1] for i, s in enumerate(signs)]
    mean = jax.tree.map(lambda *g: sum(g) / 3, *parts)
    assert_same(grads, mean, rtol=1e-10)


def test_beta_may_differ_by_example():
    net = network()
    params, x, y = data(net)
    betas = jnp.array([0.1, 0.02, 0.3])

    def ep(beta, x, y):
        return epjax.value_and_grad(net, CE, beta=beta)(params, x, y, None)[1]

    parts = [jax.jit(ep)(b, x[i : i + 1], y[i : i + 1]) for i, b in enumerate(betas)]
    assert_same(jax.jit(ep)(betas, x, y), jax.tree.map(lambda *g: sum(g) / 3, *parts), rtol=1e-10)


@pytest.mark.parametrize("method", [epjax.Sweep(60, update="pgd"), epjax.Async(60, update="pgd")])
@pytest.mark.parametrize("activation", [softplus, relu])
def test_the_residual_is_the_projected_gradient_of_F(method, activation):
    """Worst layer of ||proj gradient|| / ||eps||, by jax.grad of F at the returned state, early and late."""
    net = network(activation)
    params, x, y = data(net)
    for iterations in (3, 60):
        short = dataclasses.replace(method, residual=True, **{_count(method): iterations})
        solution = solver(net, short)(params, x, y)
        expected = jax.vmap(partial(_residual_by_grad, net, params))(x, y, solution.h)
        np.testing.assert_allclose(solution.residual, expected, rtol=1e-3, atol=1e-10)
    # An example may stay on a kink of the max-pool; the residual then says so.
    assert np.median(solution.residual) < 1e-6


def _count(method):
    return "sweeps" if isinstance(method, epjax.Sweep) else "iterations"


@pytest.mark.filterwarnings("ignore:iterations")
def test_a_layer_that_is_not_reached_has_no_infinite_residual():
    """Its error is zero and its signal is not. What is kept for broken states stops a run."""
    net = epjax.models.mlp([6, 5, 5, 6, 4], gain=2.0)
    params = net.init(jax.random.key(0), (7,))
    x, y = jax.random.normal(jax.random.key(1), (3, 7), jnp.float32), jnp.arange(3)
    solve = solver(net, epjax.Async(1, residual=True), beta=0.1)
    residual = solve(params, x, y).residual
    assert np.isfinite(residual).all()
    assert np.max(residual) == np.finfo(np.float32).max
    assert not np.isfinite(solve(params, jnp.nan * x, y).residual).any()


def _residual_by_grad(net, params, x, y, h):
    F = partial(epjax.energy.total_energy, net, CE, params, x, y, jnp.float64(0.1))
    r = epjax.energy.projected_gradient(net, F, h)
    eps = epjax.energy.prediction_errors(net, params, x, h)
    return jnp.max(
        jnp.stack([jnp.linalg.norm(a.ravel()) / jnp.linalg.norm(b.ravel()) for a, b in zip(r, eps, strict=True)])
    )


@pytest.mark.parametrize("method", [epjax.Sweep(50, tolerance=1e-6), epjax.Async(50, tolerance=1e-6)])
def test_the_tolerance_stops_each_example_by_itself(method):
    net = network()
    params, x, y = data(net)
    solution = solver(net, method)(params, x, y)
    assert np.all(solution.converged)
    assert np.all(solution.residual <= 1e-6)
    assert np.all(np.array(solution.iterations) < 50)
    for i in range(3):
        alone = solver(net, method)(params, x[i : i + 1], y[i : i + 1])
        assert alone.iterations[0] == solution.iterations[i]
        assert_same(jax.tree.map(lambda v, i=i: v[i : i + 1], solution.h), alone.h)
    starved = solver(net, dataclasses.replace(method, **{_count(method): 5}))(params, x, y)
    assert not np.any(starved.converged)


@pytest.mark.parametrize("beta", [0.2, -0.2])
@pytest.mark.parametrize("method", [epjax.Sweep(5, trace=True), epjax.Async(5, trace=True), epjax.Sync(5, trace=True)])
def test_the_energies_are_those_of_the_iterates(method, beta):
    """F(0) = beta C at the free state, then F after each iteration: those of runs that stop there."""
    net = network()
    params, x, y = data(net, batch=2)
    energies = solver(net, method, beta)(params, x, y).energies
    output = jax.vmap(lambda x: net.forward(params, x)[-1])(x)
    np.testing.assert_allclose(energies[:, 0], beta * jax.vmap(CE)(output, y), rtol=1e-12)
    F = jax.vmap(partial(epjax.energy.total_energy, net, CE), in_axes=(None, 0, 0, None, 0))
    for i in (3, 5):
        h = solver(net, dataclasses.replace(method, trace=False, **{_count(method): i}), beta)(params, x, y).h
        np.testing.assert_allclose(energies[:, i], F(params, x, y, jnp.float64(beta), h), rtol=1e-10)


def test_energies_after_an_early_stop_are_nan():
    net = network()
    solution = solver(net, epjax.Sweep(40, tolerance=1e-4, trace=True))(*data(net, batch=1))
    n = int(solution.iterations[0])
    assert np.all(np.isfinite(solution.energies[0, : n + 1]))
    assert np.all(np.isnan(solution.energies[0, n + 1 :]))


def test_the_free_phase_has_no_energy():
    net = network()
    params, x, _ = data(net)
    h = net.forward(params, x[0])
    assert epjax.energy.energy(net, params, x[0], h) == 0
    gradient = jax.grad(epjax.energy.energy, argnums=1)(net, params, x[0], h)
    assert all(not np.any(g) for g in jax.tree.leaves(gradient))


def test_sync_diverges_where_even_odd_settles():
    """The paper's control, at alpha = 1, on smooth layers of gain 2."""
    net = epjax.models.mlp([8] * 7 + [4], activation=epjax.activation.tanh, gain=2.5)
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (6,)))
    x, y = jax.random.normal(jax.random.key(1), (4, 6), jnp.float64), jnp.arange(4)
    at = {}
    for method in (epjax.Async(60, update="pgd", residual=True), epjax.Sync(60, update="pgd", residual=True)):
        at[type(method).__name__] = float(np.max(solver(net, method, 0.01)(params, x, y).residual))
    assert at["Async"] < 1e-4 < 0.1 < at["Sync"]


def _without_key():
    net = epjax.models.mlp([3])
    params = net.init(jax.random.key(0), (3,))
    return epjax.value_and_grad(net, CE, scheme="random")(params, jnp.zeros((2, 3)), jnp.arange(2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: epjax.Async(0), "iterations must be at least 1, got 0"),
        (lambda: epjax.Sweep(0), "sweeps must be at least 1, got 0"),
        (lambda: epjax.Sweep(1, tolerance=0.0), "tolerance must be positive or None, got 0.0"),
        (lambda: epjax.Async(3, tolerance=float("nan")), "tolerance must be positive or None, got nan"),
        (lambda: epjax.Async(3, update="pgd", step_size=1.5), r"step_size must lie in \(0, 1\], got 1.5"),
        (lambda: epjax.Async(3, step_size=0.5), "step_size must be 1 with update='mod_pgd', got 0.5"),
        (lambda: epjax.Async(3, unroll=-1), "unroll must be at least 0, got -1"),
        (lambda: estimator(beta=0.0), "beta must be a finite positive nudging strength"),
        (lambda: estimator(beta=float("nan")), "beta must be a finite positive nudging strength"),
        (lambda: estimator(beta=-0.1), "beta must be a finite positive nudging strength"),
        (
            lambda: estimator(scheme="middle"),
            "scheme must be one of centered, .*, random, holomorphic, or a Scheme, got 'middle'",
        ),
        (lambda: estimator(perturbation="push"), "perturbation must be one of nudge, clamp, or a function, got 'push'"),
        (lambda: estimator(errors="lost"), "errors must be one of carried, recomputed, got 'lost'"),
        (lambda: estimator(phases="never"), "phases must be one of together, sequential, got 'never'"),
        (
            lambda: estimator(equilibration=epjax.Sweep(1, update="sgd")),
            "update must be one of mod_pgd, pgd, got 'sgd'",
        ),
        (
            lambda: epjax.value_and_grad(network(softplus), CE),
            "update='mod_pgd' needs activations that are projections .* layer 1 has 'softplus'",
        ),
        (
            lambda: epjax.value_and_grad(_odd_skip(), CE, equilibration=epjax.Async(4)),
            r"layers fed by the opposite parity, but layer 3 is fed by \(2, 1\)",
        ),
        (_without_key, "key must be a jax random key"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def estimator(**options):
    return epjax.value_and_grad(network(), CE, **options)


def _odd_skip():
    dense = epjax.Layer(Dense(4))
    return epjax.Network((dense, dense, epjax.Layer(Dense(4), skips=(1,)), epjax.Layer(Dense(3), identity)))


def test_warnings():
    net = network()  # L = 5
    with pytest.warns(UserWarning, match=r"iterations=2 is less than half .* layers 1 to 1 are not reached"):
        epjax.value_and_grad(net, CE, equilibration=epjax.Async(2))
    with pytest.warns(UserWarning, match=r"iterations=4 is less than the network's 5 layers: .* layers 5 to 5"):
        epjax.value_and_grad(net, CE, equilibration=epjax.Async(4), errors="recomputed")
    single = jax.tree.map(lambda v: v.astype(jnp.float32), data(net)[0])
    ep = epjax.value_and_grad(net, CE, equilibration=epjax.Sweep(2, tolerance=1e-9))
    with pytest.warns(UserWarning, match=r"tolerance 1e-09 is below what float32 can reach \(about 4.8e-07\)"):
        ep(single, jnp.zeros((1, 8, 8, 2), jnp.float32), jnp.zeros((1,), int), None)
