"""Hopfield, resistive and oscillator networks in float64. Oracles: random competitors of a response, the energy itself,
finite differences of the settled cost, a dense Hessian, float32 against float64.

Catches a response that is no minimum, a pass that raises the energy, a gradient that is not that of the settled cost,
an error of another order in beta, a difference that was formed by subtraction, parameters that no circuit can have.
"""

import math

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import identity, unit
from epjax.network.drive import Conv, Dense
from epjax.perturbation import Nudge
from epjax.systems import Hopfield, Oscillators, Relax, Resistive

SE, CE = epjax.cost.squared_error, epjax.cost.cross_entropy
SIZES = (10, 8, 6, 4)
SYSTEMS = {
    "hopfield": Hopfield.dense(SIZES, gain=0.45),
    "resistive": Resistive(SIZES, input_gain=3.0, gain=2.0),
    "resistive A = 2": Resistive(SIZES, input_gain=3.0, gain=2.0, amplifier=2.0),
    "oscillators": Oscillators(SIZES, gain=0.4),
}
SETTLED = Relax(3000, 1e-13, over="auto")
every_system = pytest.mark.parametrize("name", ["hopfield", "resistive", "oscillators"])
with_amplifiers = pytest.mark.parametrize("name", SYSTEMS)


def setting(name, B=3, seed=0):
    """System, params with biases of some size, x [B, 12], y [B]."""
    system = SYSTEMS[name]
    with jax.enable_x64(False):
        params = system.init(jax.random.key(seed), (12,))
    rng = np.random.default_rng(seed)

    def shaken(v):  # no unit at rest on its kink
        low = 0.0 if v.ndim == 2 and v.shape[0] != 2 else -0.1
        return jnp.asarray(np.asarray(v, np.float64) + rng.uniform(low, 0.1, v.shape))

    params = jax.tree.map(shaken, params)
    x = jnp.asarray(rng.uniform(0, 1, (B, 12)))
    return system, params, x, jnp.arange(B) % 4


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def cosine(a, b):
    a, b = flat(a), flat(b)
    return float(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))


def error(a, b):
    return float(jnp.linalg.norm(flat(a) - flat(b)) / jnp.linalg.norm(flat(b)))


def exact(system, cost, params, x, y):
    return jax.jit(system.exact(cost, free=SETTLED, solve=SETTLED))(params, x, y, None)


def ep(system, cost, params, x, y, **options):
    options = {"free": SETTLED, "equilibration": SETTLED, **options}
    return jax.jit(epjax.value_and_grad(system, cost, **options))(params, x, y, jax.random.key(0))


def total_energy(system, params, x, y, beta, cost, s):
    return system.energy(params, x, s) + beta * cost(system.readout(s[-1]), y)


def settled(system, params, x, y, beta, cost, iterations, w, start):
    """`iterations` passes at w under a nudge of strength beta, from any start."""
    perturbation = Nudge(cost, y, jnp.asarray(beta))

    def push(s_L):
        return system.lift(perturbation.signal(system.readout(s_L)))

    method = Relax(iterations, None, over=w)
    return system._settle(params, system.embed(0, x), method, False, start, push).blocks


@with_amplifiers
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_no_competitor_of_a_response_has_less_energy(name, beta, x64):
    """A block alone, all others where they are; the output under a squared error whose force stays where it is."""
    system, params, x, _ = setting(name)
    rng = np.random.default_rng(1)
    s = system.start(params, x[0])
    s = tuple(jnp.asarray(v + 0.1 * rng.standard_normal(v.shape)) for v in s)
    s = tuple(system.towards(k, v, v, jnp.float64(1.0)) for k, v in enumerate(s, start=1))  # into the range
    T = jnp.asarray(beta * rng.standard_normal(4))
    psi = (system.embed(0, x[0]), *(system.embed(k, v) for k, v in enumerate(s, start=1)))

    def F(s):
        return system.energy(params, x[0], s) - T @ system.readout(s[-1])

    for k in range(1, 5):
        z = system._field(params, k, psi) + (system.lift(T) if k == 4 else 0)
        best = system.respond(k, z, system.scale(params, k))
        least = F((*s[: k - 1], best, *s[k:]))
        for size in (1e-3, 0.1, 1.0, 3.0):
            other = best + jnp.asarray(size * rng.standard_normal(best.shape))
            other = system.towards(k, other, other, jnp.float64(1.0))
            assert F((*s[: k - 1], other, *s[k:])) >= least - 1e-12


@with_amplifiers
@pytest.mark.parametrize("w", [0.5, 1.0, 1.6, 1.9])
def test_the_energy_never_rises(name, w, x64):
    system, params, x, y = setting(name)
    start = system.start(params, x[0])
    F = [system.energy(params, x[0], settled(system, params, x[0], y[0], 0.0, SE, i, w, start)) for i in range(1, 12)]
    assert np.all(np.diff(F) <= 1e-12)
    assert F[-1] < F[0]


def test_beyond_two_it_rises(x64):
    """So that the test above can fail: w = 2 is the bound, which `Relax` itself refuses."""
    system, params, x, _ = setting("hopfield")
    blocks, psi_0 = system.start(params, x[0]), system.embed(0, x[0])
    F = [system.energy(params, x[0], blocks)]
    for _ in range(8):
        for k in range(1, 5):
            psi = (psi_0, *(system.embed(j, s) for j, s in enumerate(blocks, start=1)))
            new = system.respond(k, system._field(params, k, psi), None)
            moved = system.towards(k, blocks[k - 1], new, jnp.float64(2.4))
            blocks = (*blocks[: k - 1], moved, *blocks[k:])
        F.append(system.energy(params, x[0], blocks))
    assert np.max(np.diff(F)) > 1e-6


@every_system
@pytest.mark.parametrize("cost", [SE, CE])
def test_the_exact_gradient_is_that_of_the_settled_cost(name, cost, x64):
    """Against finite differences along random directions, for parameters and input."""
    system, params, x, y = setting(name)

    @jax.jit
    def settled_cost(params, x):
        outputs = jax.vmap(lambda x: system.free(params, x, SETTLED).output)(x)
        return jnp.mean(jax.vmap(cost)(outputs, y))

    both = jax.jit(system.exact(cost, (0, 1), free=SETTLED, solve=SETTLED))
    (value, aux), grads = both(params, x, y, None)
    assert value == pytest.approx(float(settled_cost(params, x)), abs=1e-12)
    assert np.max(aux.solution.residual) < 1e-11
    assert np.all(aux.free.residual < 1e-11)
    rng = np.random.default_rng(2)
    for _ in range(4):
        towards = jax.tree.map(lambda v: jnp.asarray(rng.standard_normal(v.shape)), (params, x))
        h = 1e-6
        plus, minus = (settled_cost(*jax.tree.map(lambda v, t, h=h: v + h * t, (params, x), towards)) for h in (h, -h))
        along = float(flat(grads) @ flat(towards))
        assert (plus - minus) / (2 * h) == pytest.approx(along, rel=2e-6, abs=1e-8)


@with_amplifiers
def test_the_exact_gradient_by_a_dense_hessian(name, x64):
    """Independent of any relaxation: - d2E/dtheta ds H^-1 dC/ds on the units inside their range."""
    system, params, x, y = setting(name, B=1)
    s = system.free(params, x[0], SETTLED).states
    vector, unravel = jax.flatten_util.ravel_pytree(s)

    def E(params, vector):
        return system.energy(params, x[0], unravel(vector))

    def C(vector):
        return SE(system.readout(unravel(vector)[-1]), y[0])

    slope = jax.grad(E, 1)(params, vector)
    inside = np.asarray(jnp.abs(slope) < 1e-9) & np.asarray((vector != 0) | (name == "oscillators"))
    if name == "hopfield":
        inside &= np.asarray(vector != 1) | (np.arange(vector.size) >= vector.size - 4)
    H = np.asarray(jax.hessian(E, 1)(params, vector))[np.ix_(inside, inside)]
    v = np.zeros(vector.size)
    v[inside] = -np.linalg.solve(H, np.asarray(jax.grad(C)(vector))[inside])
    expected = jax.grad(lambda params: jax.jvp(lambda u: E(params, u), (vector,), (jnp.asarray(v),))[1])(params)
    grads = exact(system, SE, params, x, y)[1]
    assert error(grads, expected) < 1e-9


@every_system
@pytest.mark.parametrize(("scheme", "order"), [("backward", 1), ("centered", 2)])
def test_the_error_falls_as_a_power_of_beta(name, scheme, order, x64):
    """Below the first kink; the slope within 0.1."""
    system, params, x, y = setting(name)
    true = exact(system, CE, params, x, y)[1]
    betas = np.array([4e-4, 2e-4, 1e-4]) if order == 1 else np.array([4e-3, 2e-3, 1e-3])
    errors = [error(ep(system, CE, params, x, y, scheme=scheme, beta=b)[1], true) for b in betas]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(betas))
    np.testing.assert_allclose(slopes, order, atol=0.1)


def test_oscillators_are_holomorphic(x64):
    """Two points on the circle: the error falls as beta^4."""
    system, params, x, y = setting("oscillators")
    true = exact(system, SE, params, x, y)[1]
    options = {"scheme": "holomorphic", "points": 2, "free": SETTLED, "equilibration": Relax(3000, 1e-14)}
    errors = [error(ep(system, SE, params, x, y, beta=b, **options)[1], true) for b in (0.04, 0.02)]
    assert errors[1] < 1e-5
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)


@every_system
@pytest.mark.parametrize("cost", [SE, CE])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
def test_carried_differences_are_those_of_measured_states(name, cost, perturbation, x64):
    """Their fixed points, and with them the gradients: float64 hides what subtraction loses."""
    system, params, x, y = setting(name)
    options = {"perturbation": perturbation, "beta": 0.02}
    (_, one), carried = ep(system, cost, params, x, y, **options)
    (_, other), plain = ep(system, cost, params, x, y, errors="recomputed", **options)
    assert np.max(one.solution.residual) < 1e-11
    assert np.max(other.solution.residual) < 1e-11
    assert error(carried, plain) < 1e-9


@every_system
def test_in_float32_carried_differences_are_exact_and_subtraction_is_not(name, x64):
    """One-sided, beta 1e-5: cosine with the true gradient, float64."""
    system, params, x, y = setting(name)
    true = exact(system, CE, params, x, y)[1]
    small = jax.tree.map(lambda v: v.astype(jnp.float32), (params, x))
    options = {"scheme": "forward", "beta": 1e-5, "free": Relax(500, 1e-7), "equilibration": Relax(500, 1e-6)}
    carried = ep(system, CE, *small, y, **options)[1]
    plain = ep(system, CE, *small, y, errors="recomputed", **options)[1]
    carried, plain = jax.tree.map(lambda v: v.astype(jnp.float64), (carried, plain))
    assert cosine(carried, true) > 0.99999
    assert cosine(plain, true) < 0.999


@every_system
def test_phases_go_on_from_where_they_stopped(name, x64):
    """Four passes and six more are ten, of states and of differences; a start of other blocks is refused."""
    system, params, x, y = setting(name)
    some, more, all_of_them = (Relax(n, None) for n in (4, 6, 10))
    stopped = system.free(params, x[0], some).states
    whole = system.free(params, x[0], all_of_them)
    assert error(system.free(params, x[0], more, stopped).states, whole.states) < 1e-14
    nudge = Nudge(SE, y[0], jnp.asarray(0.01))
    moved = system.differences(params, whole, nudge, some).blocks
    assert (
        error(
            system.differences(params, whole, nudge, more, moved).blocks,
            system.differences(params, whole, nudge, all_of_them).blocks,
        )
        < 1e-12
    )
    with pytest.raises(ValueError, match=r"start of .* must hold blocks of shapes"):
        system.free(params, x[0], more, stopped[1:])


@every_system
def test_clamping_is_another_cost(name, x64):
    """Its gradient is that of 1/2 (o - y)^T chi^-1 (o - y), chi held: chi from nudges along each output."""
    system, params, x, y = setting(name, B=1)
    rest = system.free(params, x[0], SETTLED)
    chi = []
    for j in range(4):
        force = jnp.zeros(4).at[j].set(1.0)
        v = system._tangent(params, rest, force, SETTLED).blocks[-1]
        chi.append(v[1] if name == "oscillators" else v)
    inverse = np.linalg.inv(np.stack(chi, axis=1))

    def cost(o, y):
        d = o - jax.nn.one_hot(y, 4, dtype=o.dtype)
        return 0.5 * d @ (jnp.asarray(inverse) @ d)

    clamped = ep(system, SE, params, x, y, perturbation="clamp", beta=1e-6)[1]
    assert error(clamped, exact(system, cost, params, x, y)[1]) < 1e-4


@every_system
@pytest.mark.parametrize("order", ["up", "down", "even_odd", "sync"])
def test_every_order_settles_at_the_same_state(name, order, x64):
    system, params, x, _ = setting(name)
    found = system.free(params, x[0], Relax(3000, 1e-12, order=order)).states
    expected = system.free(params, x[0], SETTLED).states
    assert error(found, expected) < 1e-9


@every_system
def test_what_is_reported(name, x64):
    """Iterations, residual and convergence of both phases; a bound of passes that is too low does not hide."""
    system, params, x, y = setting(name)
    few = {"free": Relax(1, 1e-9), "equilibration": Relax(2, 1e-9)}
    (_, aux), _ = ep(system, CE, params, x, y, **few)
    assert aux.free.iterations.shape == (3,)
    assert aux.solution.iterations.shape == (3, 2)
    assert not np.any(aux.free.converged)
    assert not np.any(aux.solution.converged)
    (_, aux), _ = ep(system, CE, params, x, y)
    assert np.all(aux.free.iterations < 3000)
    assert np.max(aux.free.residual) < 1e-11


def test_over_relaxation_settles_slow_networks_sooner(x64):
    """w from the measured rate, against w = 1: Hopfield, five layers, gain 0.5, bias 0.2."""
    system = Hopfield.dense((128,) * 4 + (10,), gain=0.5)
    with jax.enable_x64(False):
        params = system.init(jax.random.key(0), (128,))
    params = jax.tree.map(lambda v: v.astype(jnp.float64) + (0.2 if v.ndim == 1 else 0), params)
    x = jax.random.uniform(jax.random.key(1), (128,), jnp.float64)
    passes = {
        over: int(system.free(params, x, Relax(400, 1e-8, over=over)).solution.iterations)
        for over in (1.0, "auto", 1.6)
    }
    assert passes["auto"] < 0.6 * passes[1.0]
    assert passes[1.6] < 0.6 * passes[1.0]


def test_conductances_stay_positive():
    system = Resistive((5, 3))
    params = system.init(jax.random.key(0), (4,))
    assert all(np.all(theta["conductance"] > 0) for theta in params)
    pushed = jax.tree.map(lambda v: v - 1.0, params)
    assert all(np.min(theta["conductance"]) == 0 for theta in system.project(pushed))


def test_convolutions_average_pools_and_skips(x64):
    """Any affine drive couples: EP against the exact gradient."""

    class Pooled(nn.Module):
        features: int

        @nn.compact
        def __call__(self, h):
            return nn.avg_pool(nn.Conv(self.features, (3, 3))(h), (2, 2), (2, 2))

    class Joined(nn.Module):
        @nn.compact
        def __call__(self, h, skip):
            return nn.Dense(6)(h.reshape((h.shape[0], -1))) + nn.Dense(6)(skip.reshape((skip.shape[0], -1)))

    layers = (
        epjax.Layer(Pooled(4), unit),
        epjax.Layer(Pooled(3), unit),
        epjax.Layer(Joined(), unit, skips=(1,)),
        epjax.Layer(Dense(4), identity),
    )
    system = Hopfield(epjax.Network(layers))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        params = system.init(jax.random.key(0), (8, 8, 2))
    params = jax.tree.map(lambda v: 0.5 * v.astype(jnp.float64) + (0.1 if v.ndim == 1 else 0), params)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2), jnp.float64)
    y = jnp.array([1, 3])
    with jax.numpy_dtype_promotion("standard"):
        true = exact(system, SE, params, x, y)[1]
        assert error(ep(system, SE, params, x, y, beta=1e-4)[1], true) < 1e-6


def test_max_pooling(x64):
    """Routes that do not change: carried and measured agree, and both with the exact gradient."""
    system = Hopfield(
        epjax.Network(
            (
                epjax.Layer(epjax.drive.Conv(4, pool=True, gain=0.7), unit),
                epjax.Layer(epjax.drive.Conv(4, pool=True, gain=0.7), unit),
                epjax.Layer(Dense(4, 0.7), identity),
            )
        )
    )
    with jax.enable_x64(False):
        params = system.init(jax.random.key(0), (8, 8, 2))
    params = jax.tree.map(lambda v: v.astype(jnp.float64) + (0.2 if v.ndim == 1 else 0), params)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2), jnp.float64)
    y = jnp.array([1, 3])
    true = exact(system, SE, params, x, y)[1]
    carried = ep(system, SE, params, x, y, beta=1e-4)[1]
    plain = ep(system, SE, params, x, y, beta=1e-4, errors="recomputed")[1]
    assert error(carried, true) < 1e-5
    assert error(carried, plain) < 1e-6


def hopfield_of(*drives):
    """Parameters of a Hopfield network with these drives."""
    return Hopfield(epjax.Network(tuple(epjax.Layer(d, unit) for d in drives))).init(jax.random.key(0), (12,))


def test_affine_couplings_are_taken():
    """Pooling by mean or maximum, a linear normalisation, several modules in a row."""
    pools = nn.Sequential([nn.Conv(3, (3, 3)), lambda v: v.reshape(-1, 2, 2, 2, 2, 3).mean((2, 4))])
    drives = [Conv(4, True), pools, nn.Sequential([nn.Dense(6), lambda v: 2 * v - 1, nn.Dense(5)])]
    system = Hopfield(epjax.Network(tuple(epjax.Layer(d, unit) for d in drives)))
    assert len(system.init(jax.random.key(0), (8, 8, 2))) == 3
    route = nn.Sequential([nn.Conv(3, (3, 3)), lambda v: nn.max_pool(v, (2, 2), (2, 2))])
    Hopfield(epjax.Network((epjax.Layer(route, unit),))).init(jax.random.key(0), (8, 8, 2))


def given(name, change=lambda v: v, x=None):
    system, params, usual, y = setting(name)
    params = jax.tree.map(change, params)
    return epjax.value_and_grad(system, SE)(params, usual if x is None else x, y[: len(usual if x is None else x)])


def test_the_log_cost_of_phases():
    """Against its formula in phases, and with a force where the phase is wrong by pi; it trains oscillators."""
    p, e = jnp.array([0.3, -1.2, 1.5]), 0.01
    t = jnp.array([-1.0, 1.0, -1.0]) * math.pi / 2
    expected = -jnp.sum(jnp.log((1 + e + jnp.cos(p - t)) / (2 + e)))
    np.testing.assert_allclose(epjax.cost.log_phase(jnp.sin(p), jnp.int32(1)), expected, rtol=1e-5)
    slope = jax.grad(epjax.cost.log_phase)(jnp.array([-0.999]), jnp.array([1.0]))
    assert slope[0] < -80
    system, params, x, y = setting("oscillators")
    true = exact(system, epjax.cost.log_phase, params, x, y)[1]
    assert cosine(ep(system, epjax.cost.log_phase, params, x, y, beta=1e-5)[1], true) > 0.9999


@pytest.mark.parametrize("name", ["hopfield", "resistive", "oscillators"])
def test_ep_as_a_loss(name):
    """Its gradient is the estimator's; "exact" is implicit differentiation; "bp" is refused."""
    system, params, x, y = setting(name)
    loss = epjax.ep_loss(system, SE, scheme="forward", beta=1e-4)
    value, grads = jax.jit(jax.value_and_grad(loss))(params, x, y)
    (cost, _), expected = jax.jit(epjax.value_and_grad(system, SE, scheme="forward", beta=1e-4))(params, x, y)
    np.testing.assert_allclose(value, cost, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, expected)
    implicit = jax.jit(jax.grad(epjax.ep_loss(system, SE, algorithm="exact")))(params, x, y)
    assert cosine(implicit, jax.jit(epjax.exact_value_and_grad(system, SE))(params, x, y)[1]) > 0.999999
    with pytest.raises(ValueError, match="algorithm must be ep or exact for"):
        epjax.ep_loss(system, SE, algorithm="bp")


@pytest.mark.parametrize("name", ["hopfield", "resistive", "oscillators"])
def test_summary(name):
    told = SYSTEMS[name].summary((12,))
    held = sum(leaf.size for leaf in jax.tree.leaves(SYSTEMS[name].init(jax.random.key(0), (12,))))
    assert f"{held:,}" in told.splitlines()[-1]


@pytest.mark.parametrize("unroll", [2, 7, 50])
def test_passes_that_are_written_out(unroll, x64):
    system, params, x, _ = setting("hopfield")
    one = Relax(7, None, trace=True)
    looped = jax.jit(lambda x: system.free(params, x, one).states)(x[0])
    written = jax.jit(lambda x: system.free(params, x, Relax(7, None, unroll=unroll)).states)(x[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), written, looped)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Relax(0), "iterations must be at least 1, got 0"),
        (lambda: Relax(over=2.0), "over must be 'auto' or lie between 0 and 2, got 2.0"),
        (lambda: Relax(order="sideways"), "order must be one of auto, up, down, even_odd, sync, got 'sideways'"),
        (lambda: Hopfield.dense([]), "sizes must be positive layer sizes"),
        (lambda: Hopfield(epjax.models.mlp([4, 3], activation=epjax.activation.tanh)), "layer 1 .* must have a range"),
        (
            lambda: hopfield_of(*[nn.Dense(4)] * 2),
            "weights of its own in every layer, but layers 1 and 2",
        ),
        (lambda: Resistive((4, 0)), "sizes must be positive numbers of nodes"),
        (lambda: Resistive((4,), amplifier=-1.0), "amplifier must be positive, got -1.0"),
        (lambda: Oscillators((4,), bias=0.0), "bias must be positive"),
        (lambda: epjax.value_and_grad(SYSTEMS["hopfield"], SE, equilibration=epjax.Sweep(1)), "must be epjax.Relax"),
        (lambda: epjax.value_and_grad(SYSTEMS["hopfield"], SE, scheme="holomorphic"), "analytic responses"),
        (lambda: epjax.value_and_grad(epjax.models.mlp([3]), SE, equilibration=Relax()), "equilibration"),
        (lambda: epjax.value_and_grad("hopfield", SE), "net must be an epjax.Network or another system"),
        (lambda: epjax.cost.as_cost("one_minus_cos"), "no force where a phase p is wrong by pi"),
        (lambda: hopfield_of(Dense(6), nn.Sequential([nn.Dense(5), nn.tanh])), "layer 2 .* must be affine .* got"),
        (lambda: hopfield_of(nn.LayerNorm()), "layer 1 .* must be affine"),
        (lambda: given("resistive", lambda v: v - 1.0), "conductances must not be negative, got -0.9.* in layer 1"),
        (
            lambda: given("oscillators", x=jnp.full((2, 12), 1.5)),
            "x must lie between 0 and 1 for Oscillators, got .* 1.5",
        ),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_random_signs_and_a_strength_for_each_example(x64):
    system, params, x, y = setting("hopfield")
    whole = ep(system, SE, params, x, y, scheme="random", beta=jnp.array([1e-5, 2e-5, 3e-5]))[1]
    assert cosine(whole, exact(system, SE, params, x, y)[1]) > 0.999999


@every_system
def test_parameters_and_input_may_be_known_within_a_jit(name):
    """Only beta is traced: what is checked of known values must not be."""
    system, params, x, y = setting(name)
    cost = jax.jit(lambda beta: epjax.value_and_grad(system, "squared_error", beta=beta)(params, x, y)[0][0])
    assert jnp.isfinite(cost(0.01))
