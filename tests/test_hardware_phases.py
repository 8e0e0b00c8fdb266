"""What a device makes of phases and updates. Oracles: paper and pencil for one block, a dense Hessian, many keys, XLA's
cost analysis.

Catches a temperature whose fluctuations are not T H^-1, time that does not run as exp(-t), a force that is off its
levels, an update that a memory cannot make, a device that costs as much as two ideal ones.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import epjax
from epjax.hardware import Adc, Device, Settling, dead_band, soft_bounds
from epjax.hardware.nudging import Imprecise
from epjax.hardware.thermal import shaken, warm_free
from epjax.network.activation import identity, tanh
from epjax.network.drive import Dense
from epjax.perturbation import Nudge
from epjax.systems import PCN, Hopfield, Oscillators, Relax, Resistive

SIZES = (512, 512, 10)
IDEAL = {
    "pcn": epjax.models.mlp(SIZES),
    "hopfield": Hopfield.dense(SIZES),
    "resistive": Resistive(SIZES, input_gain=30.0),
    "oscillators": Oscillators(SIZES),
}


def wide(tree):
    return jax.tree.map(lambda v: jnp.asarray(np.asarray(v), jnp.float64), tree)


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def one_block():
    """A Hopfield network of one linear block, s = W x: what it does fits in a line."""
    rng = np.random.default_rng(0)
    params = ({"kernel": jnp.asarray(rng.normal(size=(4, 3))), "bias": jnp.zeros(3, jnp.float64)},)
    return Hopfield.dense((3,)), params, jnp.asarray(rng.uniform(size=(1, 4))), jnp.asarray([[0.5, -0.2, 0.1]])


def gradient(net, **options):
    options = {"errors": "recomputed", "beta": 0.05} | options
    return jax.jit(epjax.value_and_grad(net, "squared_error", **options))


# Temperature.


@pytest.mark.fast
@pytest.mark.parametrize("over", [1.0, 1.4])
def test_states_fluctuate_with_the_inverse_hessian(over, x64):
    """Linear Hopfield network, E = 1/2 s^T H s - b^T s: the covariance of s is T H^-1, its mean the equilibrium."""
    net = Hopfield(epjax.Network(tuple(epjax.Layer(Dense(n, 0.9), identity) for n in (3, 2))))
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (4,))
    params, x, T = wide(params), jnp.asarray([0.3, -0.2, 0.9, 0.4]), 0.01
    mean, back = jax.flatten_util.ravel_pytree(net.free(params, x, Relax(500, 1e-13)).states)
    H = jax.hessian(lambda s: net.energy(params, x, back(s)))(mean)
    draw = jax.jit(jax.vmap(lambda key: flat(warm_free(net, params, x, Relax(25, None, over=over), T, key).states)))
    s = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)))
    expected = T * np.linalg.inv(H)
    assert np.abs(expected / T - np.eye(5)).max() > 0.2  # couplings count
    np.testing.assert_allclose(s.mean(axis=0), mean, atol=5 * (np.diag(expected).max() / 20_000) ** 0.5)
    np.testing.assert_allclose(np.cov(s.T), expected, atol=0.04 * expected.max())


def test_a_nudged_state_fluctuates_about_the_nudged_equilibrium(x64):
    """One block, forward, W x + beta y over 1 + beta: the gradient's mean, and its variance T (1 + 1 / (1 + beta))."""
    net, params, x, y = one_block()
    beta, T = 0.3, 1e-4
    device = Device(net, temperature=T)
    ep = epjax.value_and_grad(
        device, "squared_error", scheme="forward", beta=beta, errors="recomputed", equilibration=Relax(30, None)
    )
    found = jax.jit(jax.vmap(lambda key: ep(params, x, y, key)[1][0]["kernel"]))(
        jax.random.split(jax.random.key(0), 8000)
    )
    x0, s = np.asarray(x[0]), np.asarray(params[0]["kernel"]).T @ np.asarray(x[0])
    mean = -np.outer(x0, (s + beta * np.asarray(y[0])) / (1 + beta) - s) / beta
    noise = np.abs(np.outer(x0, np.ones(3))) * (T * (1 + 1 / (1 + beta))) ** 0.5 / beta
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=5 * noise.max() / 8000**0.5)
    np.testing.assert_allclose(found.std(axis=0), noise, rtol=0.12)  # a nudge relaxes with 1 + beta, not with 1


def test_errors_of_a_predictive_coding_network_fluctuate_by_themselves(x64):
    """In coordinates eps the energy is 1/2 pi ||eps||^2: variances T / pi_k, whatever the activation."""
    net = epjax.Network((epjax.Layer(Dense(5), tanh), epjax.Layer(Dense(3), identity)))
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (4,))
    params, pcn, T, x = wide(params), PCN(net, (1.0, 4.0)), 0.02, jnp.ones(4, jnp.float64)
    eps = (jnp.full((5,), 0.1), jnp.full((3,), -0.2))

    def errors(key):
        return epjax.energy.prediction_errors(net, params, x, shaken(pcn, params, x, eps, T, key))

    found = jax.jit(jax.vmap(errors))(jax.random.split(jax.random.key(0), 20_000))
    for e, at, variance in zip(found, (0.1, -0.2), (T, T / 4), strict=True):
        np.testing.assert_allclose(np.cov(np.asarray(e).T), variance * np.eye(e.shape[1]), atol=0.05 * variance)
        np.testing.assert_allclose(e.mean(axis=0), at, atol=5 * (T / 20_000) ** 0.5)


@pytest.mark.fast
def test_stiffness_is_the_second_derivative_of_the_energy(x64):
    for net in (Resistive((3,), gain=2.0), Oscillators((3,))):
        with jax.enable_x64(False):
            params = net.init(jax.random.key(0), (4,))
        params, x = wide(params), jnp.asarray([0.3, 0.2, 0.9, 0.4])
        rest = net.free(params, x, Relax(50, 1e-13))
        H = jax.hessian(lambda s, net=net, params=params, x=x: net.energy(params, x, (s,)))(rest.states[0])
        np.testing.assert_allclose(np.diag(H), net.stiffness(rest.fields[0], net.scale(params, 1)), rtol=1e-9)


def test_a_warm_device_is_keyed():
    net = Hopfield.dense((8, 4))
    params = net.init(jax.random.key(0), (6,))
    x, y = jax.random.uniform(jax.random.key(1), (4, 6)), jnp.arange(4)
    ep = gradient(Device(net, temperature=1e-4), equilibration=Relax(4, None), free=Relax(4, None))
    found = [flat(ep(params, x, y, jax.random.key(i))[1]) for i in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


# Time, and the nudge.


@pytest.mark.fast
@pytest.mark.parametrize(("duration", "steps"), [(0.5, 4), (2.0, 1)])
def test_a_block_settles_with_its_time_constant(duration, steps, x64):
    """A clamped output is held at s^0 + beta (y - s^0): it gets there as 1 - exp(-t), in however many steps."""
    net, params, x, y = one_block()
    device = Device(net, settling=Settling(duration=duration, steps=steps))
    found = gradient(device, scheme="forward", perturbation="clamp", beta=0.2)(params, x, y, None)[1][0]["kernel"]
    s = np.asarray(params[0]["kernel"]).T @ np.asarray(x[0])
    expected = -np.outer(x[0], (np.asarray(y[0]) - s) * (1 - np.exp(-duration)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["pcn", "resistive"])
def test_so_many_iterations_are_all_it_has(name):
    net = {"pcn": epjax.models.mlp((6, 4)), "resistive": Resistive((6, 4), input_gain=5.0)}[name]
    params = net.init(jax.random.key(0), (5,))
    x, y = jax.random.uniform(jax.random.key(1), (2, 5)), jnp.arange(2)
    (_, aux), _ = gradient(Device(net, settling=Settling(iterations=2)))(params, x, y, None)
    assert set(np.asarray(aux.solution.iterations).ravel().tolist()) == {2}
    assert aux.free is None or set(np.asarray(aux.free.iterations).tolist()) == {2}


@pytest.mark.fast
def test_a_force_of_few_levels_has_zero_among_them():
    force = Nudge(lambda o, y: -jnp.sum(o * y), jnp.asarray([-3.0, -0.6, -0.4, 0.0, 0.3, 0.7]), jnp.asarray(0.5))
    found = Imprecise(force, 1.5, bits=2, high=1.0)
    np.testing.assert_allclose(found.direction(jnp.zeros(6)), 1.5 * np.asarray([-1, -1, 0, 0, 0, 1]), atol=1e-6)
    np.testing.assert_allclose(found.signal(jnp.zeros(6)), 0.75 * np.asarray([-1, -1, 0, 0, 0, 1]), atol=1e-6)


# Updates.


@pytest.mark.fast
def test_soft_bounds_and_dead_band_are_their_formulas():
    w = jnp.asarray([[0.0, 0.5, 1.0], [0.5, 0.75, 0.25]])
    u = jnp.asarray([[-0.1, 0.1, 0.1], [-0.1, -0.01, 0.2]])
    params, updates = ({"kernel": w, "bias": w[0]},), ({"kernel": u, "bias": u[0]},)
    bounded = soft_bounds(0.0, 1.0, nonlinearity=1.0, asymmetry=0.2)
    found, _ = bounded.update(updates, bounded.init(params), params)
    expected = [[0, 0.1 * 1.2, 0], [-0.1 * 0.8, -0.01 * 0.8 * 1.5, 0.2 * 1.2 * 1.5]]
    np.testing.assert_allclose(found[0]["kernel"], expected, atol=1e-7)
    assert np.array_equal(found[0]["bias"], u[0])
    linear = soft_bounds(0.0, 1.0, nonlinearity=0.0)
    np.testing.assert_allclose(linear.update(updates, linear.init(params), params)[0][0]["kernel"], u, rtol=1e-6)
    chain = optax.chain(optax.scale(1.0), dead_band(0.05))
    found, _ = chain.update(updates, chain.init(params), params)
    np.testing.assert_allclose(found[0]["kernel"], [[-0.1, 0.1, 0.1], [-0.1, 0, 0.2]], atol=1e-7)
    assert np.array_equal(found[0]["bias"], u[0])
    with pytest.raises(ValueError, match="params must be given to the update of soft_bounds"):
        bounded.update(updates, bounded.init(params), None)


@pytest.mark.fast
def test_repeated_updates_of_a_soft_bound_end_where_up_and_down_are_as_large():
    """(1 + a) (high - w) = (1 - a) (w - low): the symmetry point, w = (1 + a) / 2 between 0 and 1."""
    link, w = soft_bounds(0.0, 1.0, asymmetry=0.3), ({"kernel": jnp.full((1, 1), 0.1)},)
    for i in range(800):
        pulse = ({"kernel": jnp.full((1, 1), 0.02 if i % 2 else -0.02)},)
        w = optax.apply_updates(w, link.update(pulse, link.init(w), w)[0])
    np.testing.assert_allclose(float(w[0]["kernel"][0, 0]), 0.65, atol=0.02)


# What it costs, and what is refused.


EVERYTHING = {
    "read_noise": 1e-3,
    "reads": 4,
    "adc": Adc(12, -40.0, 40.0),
    "mismatch": 0.3,
    "weight_bits": 6,
    "drift": 1e-4,
    "nudge_gain": 1.1,
    "nudge_bits": 6,
    "temperature": 1e-7,
}
READS = {name: EVERYTHING[name] for name in ("read_noise", "reads", "adc", "mismatch", "weight_bits", "nudge_gain")}


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        *((name, EVERYTHING, 1.5) for name in ("hopfield", "resistive", "oscillators")),
        ("pcn", READS, 1.5),
        ("pcn", EVERYTHING, 2.5),  # one sweep is no more than two passes: recomputing, drift and fluctuations are three
    ],
    ids=["hopfield", "resistive", "oscillators", "pcn, reads", "pcn"],
)
def test_what_a_device_costs(name, options, most):
    """FLOPs of the compiled gradient beside the ideal system's; a loop's body counts once in both."""
    net = IDEAL[name]
    params = net.init(jax.random.key(0), (64,))
    x, y = jax.random.uniform(jax.random.key(1), (16, 64)), jnp.arange(16) % 10
    few = {} if name == "pcn" else {"equilibration": Relax(5, None), "free": Relax(5, None)}

    def flops(net):
        return gradient(net, **few).lower(params, x, y, jax.random.key(0)).compile().cost_analysis()["flops"]

    ratio = flops(Device(net, **options)) / flops(net)
    print(f"{name}: {ratio:.2f} times the ideal system's FLOPs")
    assert ratio < most


@pytest.mark.fast
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda net: soft_bounds(1.0, 1.0), "low of soft_bounds must be below its high"),
        (lambda net: soft_bounds(0.0, 1.0, 2.0), "nonlinearity must be at most 1"),
        (lambda net: soft_bounds(0.0, 1.0, 1.0, 1.0), "asymmetry must lie between -1 and 1"),
        (lambda net: dead_band(-1.0), "threshold must be a finite number, at least 0"),
        (lambda net: Settling(), "settling must have iterations or a duration"),
        (lambda net: Settling(iterations=0), "iterations of the settling must be at least 1"),
        (lambda net: Settling(duration=-1.0), "duration of the settling must be positive"),
        (lambda net: Settling(duration=1.0, steps=0), "steps of the settling must be at least 1"),
        (lambda net: Device(net, temperature=-1.0), "temperature must be a finite number, at least 0"),
        (lambda net: Device(net, nudge_bits=1), "nudge_bits must be a finite number, at least 2"),
        (lambda net: Device(net, nudge_range=0.0), "nudge_range must be positive"),
        (lambda net: Device(net, settling=3), "settling must be a Settling or None"),
    ],
)
def test_what_cannot_be_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong(Hopfield.dense((3,)))


@pytest.mark.fast
def test_a_warm_device_needs_a_key(x64):
    net, params, x, y = one_block()
    with pytest.raises(ValueError, match="key must be a jax random key"):
        epjax.value_and_grad(Device(net, temperature=1.0), "squared_error", errors="recomputed")(params, x, y, None)


@pytest.mark.fast
def test_what_is_not_known_to_settle_has_no_temperature():
    class Unknown:
        def __getattr__(self, name):
            return getattr(PCN(IDEAL["pcn"]), name)

    with pytest.raises(ValueError, match="temperature and settling must be off for Unknown"):
        Device(Unknown(), temperature=1.0)
