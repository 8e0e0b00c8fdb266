"""Oracle: closed forms of noise, converters, rounding and mismatch; measured sweeps. Systems as they are built.

Catches noise that is not what its option says, that free and nudged reads share or that two equal keys do not; a
mismatch outside of the energy; a converter off by a level; a budget that names a beta which a sweep does not.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.hardware import Adc, Budget, Device, budget
from epjax.hardware.__main__ import main
from epjax.hardware.values import quantise
from epjax.network.activation import hard_tanh, identity
from epjax.network.drive import Dense
from epjax.runs import cli
from epjax.systems import PCN, Hopfield, Oscillators, Resistive

pytestmark = pytest.mark.usefixtures("x64")
TIGHT = epjax.Relax(1000, 1e-13)
PATHS = {"equilibration": TIGHT, "free": TIGHT}
SYSTEMS = {
    "hopfield": Hopfield.dense((7, 3)),
    "resistive": Resistive((8, 3), input_gain=3.0),
    "oscillators": Oscillators((7, 3)),
    "pcn": PCN(epjax.Network([epjax.Layer(Dense(7), hard_tanh), epjax.Layer(Dense(3), identity)])),
}
HOPFIELD = SYSTEMS["hopfield"]
LINEAR = Hopfield(epjax.Network([epjax.Layer(Dense(3), identity)]))


def paths(name):
    return {"equilibration": epjax.Sweep(60), "free": None} if name == "pcn" else PATHS


def exact_paths(name):
    return {} if name == "pcn" else {"free": TIGHT}


def data(system, batch=4):
    params = system.init(jax.random.key(0), (6,))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    return params, jax.random.uniform(jax.random.key(1), (batch, 6), jnp.float64), jnp.arange(batch) % 3


def gradient(device, given, key=None, beta=0.05, keep_states=False, compiled=True, **options):
    ep = epjax.value_and_grad(
        device, "squared_error", beta=beta, errors="recomputed", keep_states=keep_states, **PATHS | options
    )
    (_, aux), grads = (jax.jit(ep) if compiled else ep)(*given, key)
    return (aux, grads) if keep_states else grads


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


# What is off, and what is refused.


@pytest.mark.parametrize("name", SYSTEMS)
def test_off_it_is_the_system(name):
    given = data(SYSTEMS[name])
    plain, built = (gradient(s, given, **paths(name)) for s in (SYSTEMS[name], Device(SYSTEMS[name])))
    np.testing.assert_allclose(flat(built), flat(plain), rtol=1e-9, atol=1e-12)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"read_noise": -1e-3}, "read_noise must be a finite number, at least 0, got -0.001"),
        ({"noise_floor": float("nan")}, "noise_floor must be a finite number, at least 0, got nan"),
        ({"mismatch": (0.1, 0.2)}, "mismatch must be one number, got shape"),
        ({"drift": -1}, "drift must be a finite number, at least 0, got -1"),
        ({"reads": 0}, "reads must be a finite number, at least 1, got 0"),
        ({"weight_bits": 0}, "weight_bits must be a finite number, at least 1, got 0"),
        ({"weight_bits": 60}, "weight_bits must be at most 24"),
        ({"rounding": "up"}, "rounding must be one of nearest, stochastic, got 'up'"),
        ({"nudge_gain": 0.0}, "nudge_gain must be positive, got 0.0"),
        ({"adc": 8}, r"adc must be an Adc\(bits, low, high\) or None, got 8"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        Device(HOPFIELD, **options)


@pytest.mark.fast
def test_what_a_device_cannot_do_is_one_sentence():
    for bits, low, high, words in (
        (0, 0, 1, "bits of the ADC must be"),
        (8, 1.0, 1.0, "low of the ADC must be below its high, both finite, got 1.0 and 1.0"),
        (8, 0.0, float("nan"), "low of the ADC must be below"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            Adc(bits, low, high)
    with pytest.raises(ValueError, match=r"^system must be the ideal one, got a Device"):
        Device(Device(HOPFIELD))
    with pytest.raises(ValueError, match=r"^errors must be 'recomputed' on a Device.*got 'carried'"):
        epjax.value_and_grad(Device(HOPFIELD), "squared_error")
    with pytest.raises(ValueError, match=r"^scheme='holomorphic' needs complex states"):
        epjax.value_and_grad(Device(SYSTEMS["oscillators"]), "squared_error", scheme="holomorphic", errors="recomputed")
    given = data(HOPFIELD)
    with pytest.raises(ValueError, match=r"^key must be a jax random key for a system with noise, got None"):
        gradient(Device(HOPFIELD, read_noise=0.1), given)
    with pytest.raises(
        ValueError, match=r"^low and high of the ADC must hold at least half of the free states.*layer 1"
    ):
        gradient(Device(HOPFIELD, adc=Adc(8, 0.9, 1.0)), given, compiled=False)
    with pytest.raises(ValueError, match=r"^read_noise must be a finite number, at least 0, got -1"):
        budget(HOPFIELD, *given, "squared_error", read_noise=-1.0)


# Read noise.


@pytest.mark.fast
@pytest.mark.parametrize("options", [{}, {"reads": 4}], ids=["one", "four"])
def test_variance_of_the_gradient(options):
    """One linear layer: dE/dW = -x s, dE/db = -s. Centered: var of db = sigma^2 / (2 N beta^2 B) for every unit."""
    given, sigma, beta = data(LINEAR), 1e-3, 0.05
    device = Device(LINEAR, noise_floor=sigma, **options)
    keys = jax.random.split(jax.random.key(5), 3000)
    bias = jax.jit(jax.vmap(lambda key: gradient(device, given, key, beta)[0]["bias"]))(keys)
    expected = sigma**2 / (2 * options.get("reads", 1) * beta**2 * 4)
    np.testing.assert_allclose(bias.var(axis=0), expected, rtol=0.1)
    ideal = gradient(Device(LINEAR), given, beta=beta)[0]["bias"]
    np.testing.assert_allclose(bias.mean(axis=0), ideal, atol=5 * (expected / 3000) ** 0.5)


@pytest.mark.fast
def test_one_sided_noise_has_both_reads():
    """Forward: [s^beta - s^0] / beta, two independent reads: var = 2 sigma^2 / (beta^2 B)."""
    given, device = data(LINEAR), Device(LINEAR, noise_floor=1e-3)
    keys = jax.random.split(jax.random.key(6), 3000)
    bias = jax.jit(jax.vmap(lambda key: gradient(device, given, key, scheme="forward")[0]["bias"]))(keys)
    np.testing.assert_allclose(bias.var(axis=0), 2 * 1e-6 / (0.05**2 * 4), rtol=0.1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_relative_noise_is_a_share_of_the_rms(name):
    """From the reads themselves, layer by layer; the floor adds in square."""
    system, (params, x, _) = SYSTEMS[name], data(SYSTEMS[name], 1)
    device = Device(system, read_noise=0.01, noise_floor=0.002)
    free = None if name == "pcn" else TIGHT

    def one(key):
        return device.keyed(key).free(params, x[0], free).states

    reads = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 2000))
    for r, s in zip(reads, system.free(params, x[0], free).states, strict=True):
        expected = jnp.sqrt(0.002**2 + 0.01**2 * jnp.mean(s**2))
        np.testing.assert_allclose(jnp.sqrt(jnp.mean((r - s[None]) ** 2)), expected, rtol=0.05)


@pytest.mark.fast
def test_same_key_same_noise_and_another_for_every_phase_example_and_layer():
    given = data(HOPFIELD, 2)
    given = (given[0], jnp.stack([given[1][0]] * 2), jnp.zeros(2, jnp.int32))  # two equal examples
    device = Device(HOPFIELD, noise_floor=0.01)
    aux, grads = gradient(device, given, jax.random.key(3), keep_states=True)
    again = gradient(device, given, jax.random.key(3))
    other = gradient(device, given, jax.random.key(4))
    np.testing.assert_allclose(flat(grads), flat(again), rtol=1e-9)  # another program, which rounds otherwise
    assert not jnp.any(flat(grads) == flat(other))
    ideal, _ = gradient(Device(HOPFIELD), given, keep_states=True)
    noise = [r - s for r, s in zip(aux.solution.h, ideal.solution.h, strict=True)]  # [B, P, n]
    assert np.unique(np.asarray(noise[1])).size == noise[1].size
    key = jax.vmap(lambda k: jax.random.fold_in(k, 1))(jax.random.split(jax.random.key(3), 2))[0]
    rest = device.keyed(key).free(given[0], given[1][0], TIGHT)
    free = rest.states[1] - rest.rest.states[1]
    assert not np.isin(np.asarray(free), np.asarray(noise[1])).any()


@pytest.mark.fast
def test_a_sweep_is_a_vmap():
    given, key = data(HOPFIELD), jax.random.key(3)

    def at(sigma):
        return flat(gradient(Device(HOPFIELD, read_noise=sigma, mismatch=sigma), given, key))

    sigmas = jnp.array([0.0, 0.1])
    swept = jax.jit(jax.vmap(at))(sigmas)
    for sigma, found in zip((0.0, 0.1), swept, strict=True):
        np.testing.assert_allclose(found, at(sigma), rtol=1e-6, atol=1e-9)


# Converter, memory.


@pytest.mark.fast
def test_a_converter():
    adc, s = Adc(4, -1.0, 2.0), jnp.linspace(-1.0, 2.0, 1001)
    step = 3.0 / 15
    assert jnp.max(jnp.abs(adc(s) - s)) <= step / 2 + 1e-12
    np.testing.assert_allclose(jnp.mean((adc(s) - s) ** 2), step**2 / 12, rtol=0.02)
    assert np.unique(np.round(np.asarray(adc(s)), 9)).size == 16
    np.testing.assert_allclose(adc(jnp.array([-5.0, 7.0])), [-1.0, 2.0])
    assert adc.clips(jnp.array([-5.0, -1.0, 0.0, 2.0, 2.1, 7.0])) == 3


@pytest.mark.fast
def test_a_device_reads_levels_and_counts_what_it_clips():
    params, x, y = data(HOPFIELD)
    adc = Adc(6, 0.05, 1.0)
    device = Device(HOPFIELD, adc=adc)
    free = jax.vmap(lambda x: HOPFIELD.free(params, x, TIGHT).states)(x)
    counted = device.clipped(params, x, TIGHT)
    assert counted.tolist() == [int(((s < 0.05) | (s > 1)).sum()) for s in free]
    assert counted.sum() > 0
    aux, _ = gradient(Device(HOPFIELD, adc=Adc(6, -1.0, 1.0)), (params, x, y), keep_states=True)
    for h in aux.solution.h:
        levels = (h + 1.0) / (2.0 / 63)
        np.testing.assert_allclose(levels, jnp.round(levels), atol=1e-9)


@pytest.mark.fast
def test_stochastic_rounding_is_unbiased_and_nearest_is_not():
    v = jnp.linspace(-0.9, 0.9, 37)
    keys = jax.random.split(jax.random.key(7), 8000)
    drawn = jax.vmap(lambda key: quantise(v, -1.0, 1.0, 3, key))(keys)
    step = 2.0 / 7
    np.testing.assert_allclose(drawn.mean(axis=0), v, atol=5 * step / 2 / 8000**0.5)
    assert jnp.max(drawn.var(axis=0)) <= step**2 / 4 * 1.05
    assert jnp.max(jnp.abs(quantise(v, -1.0, 1.0, 3) - v)) > 0.4 * step


@pytest.mark.fast
def test_weights_are_stored_on_a_grid():
    params, _, _ = data(SYSTEMS["resistive"])
    nearest = Device(SYSTEMS["resistive"], weight_bits=3)
    held = nearest.write(params)
    for theta, w in zip(params, held, strict=True):
        step = theta["conductance"].max() / 7
        assert jnp.max(jnp.abs(w["conductance"] - theta["conductance"])) <= step / 2 + 1e-12
        assert jnp.all(w["conductance"] >= 0)
        assert jnp.all(w["bias"] == theta["bias"])
    assert jnp.all(flat(nearest.write(held)) == flat(held))
    stochastic = replace(nearest, rounding="stochastic")
    drawn = jax.vmap(lambda key: flat(stochastic.write(params, key)))(jax.random.split(jax.random.key(1), 4000))
    steps = flat(jax.tree.map(lambda v: jnp.full_like(v, v.max() / 7), params))
    assert jnp.all(jnp.abs(drawn.mean(axis=0) - flat(params)) <= 5 * steps / 2 / 4000**0.5 + 1e-12)
    assert jnp.all(flat(stochastic.write(params)) == flat(stochastic.write(params)))


# Mismatch, drift, gain.


@pytest.mark.fast
def test_mismatch_is_log_normal_of_mean_one_and_leaves_biases():
    p, n = 0.5, 400
    params = ({"kernel": jnp.ones((n, n)), "bias": jnp.ones(n)},)
    device = Device(HOPFIELD, mismatch=p, seed=3)
    (w,) = device.couplings(params)
    m = w["kernel"]
    np.testing.assert_allclose(m.mean(), 1.0, atol=5 * (np.expm1(p * p) / n**2) ** 0.5)
    np.testing.assert_allclose(m.var(), np.expm1(p * p), rtol=0.05)
    np.testing.assert_allclose(jnp.log(m).std(), p, rtol=0.01)
    assert jnp.all(w["bias"] == 1)
    assert not jnp.any(replace(device, seed=4).couplings(params)[0]["kernel"] == m)


@pytest.mark.parametrize("name", SYSTEMS)
def test_ep_and_the_exact_gradient_see_the_mismatch_and_the_ideal_model_does_not(name):
    given = data(SYSTEMS[name])
    device = Device(SYSTEMS[name], mismatch=0.5, weight_bits=4, seed=1)
    w = device.couplings(given[0])

    def exact(s, params):
        exact = epjax.exact_value_and_grad(s, "squared_error", **exact_paths(name))
        return flat(jax.jit(exact)(params, *given[1:])[1])

    of_device = exact(device, given[0])
    np.testing.assert_allclose(of_device, exact(SYSTEMS[name], w), rtol=1e-9, atol=1e-12)
    found = flat(gradient(device, given, beta=1e-3, **paths(name)))
    norm = jnp.linalg.norm(of_device)
    assert jnp.linalg.norm(found - of_device) < 1e-3 * norm
    assert jnp.linalg.norm(exact(SYSTEMS[name], given[0]) - of_device) > 0.1 * norm


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_error_of_drift_is_divided_by_beta(name):
    """d / beta, to first order: ten times the drift at ten times the beta is the same error."""
    given = data(SYSTEMS[name])
    errors = {}
    for drift, beta in ((1e-5, 1e-3), (1e-5, 1e-2), (1e-4, 1e-2)):
        drifting, still = (
            flat(gradient(Device(SYSTEMS[name], drift=d, seed=2), given, beta=beta, scheme="forward", **paths(name)))
            for d in (drift, 0.0)
        )
        errors[drift, beta] = jnp.linalg.norm(drifting - still)
    # another beta is another phase, whose drift is drawn anew
    assert 2 < errors[1e-5, 1e-3] / errors[1e-5, 1e-2] < 50
    np.testing.assert_allclose(errors[1e-4, 1e-2] / errors[1e-5, 1e-2], 10, rtol=0.02)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_gain_of_a_nudge(name):
    """The estimate at gain beta, times gain."""
    given = data(SYSTEMS[name])
    found = flat(gradient(Device(SYSTEMS[name], nudge_gain=1.5), given, beta=0.02, **paths(name)))
    there = flat(gradient(SYSTEMS[name], given, beta=0.03, **paths(name)))
    np.testing.assert_allclose(found, 1.5 * there, rtol=1e-6, atol=1e-9)


# The budget.


def sweep(name, given, betas, sigma, scheme, draws=24):
    """The measured relative RMS error of the gradient at each beta."""
    g = flat(epjax.exact_value_and_grad(SYSTEMS[name], "squared_error", **exact_paths(name))(*given)[1])
    ep = epjax.value_and_grad

    @jax.jit
    def error(given, beta, keys):
        device = Device(SYSTEMS[name], read_noise=sigma)
        estimate = ep(device, "squared_error", beta=beta, scheme=scheme, errors="recomputed", **quick(name))
        found = jax.vmap(lambda key: flat(estimate(*given, key)[1]))(keys)
        return jnp.sqrt(jnp.mean(jnp.sum((found - g[None]) ** 2, axis=1))) / jnp.linalg.norm(g)

    keys = jax.random.split(jax.random.key(11), draws)
    return np.array([float(error(given, jnp.float64(beta), keys)) for beta in betas])


def quick(name):
    way = epjax.Relax(300, 1e-9)
    return {"equilibration": epjax.Sweep(12), "free": None} if name == "pcn" else {"equilibration": way, "free": way}


@pytest.mark.parametrize("scheme", ["centered", "forward", "backward"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_best_beta_is_that_of_a_sweep(name, scheme):
    """Within a factor of two, from bias and noise that were measured apart; the smooth law where there is no kink."""
    given, sigma = data(SYSTEMS[name]), 1e-3
    options = {"beta": 0.05, "read_noise": sigma, "scheme": scheme}
    found = budget(SYSTEMS[name], *given, "squared_error", **options, **quick(name))
    betas = np.logspace(-2.9, -0.1, 15)
    errors = sweep(name, given, betas, sigma, scheme)
    measured = betas[int(np.nanargmin(errors))]
    print(f"{name}, {scheme}: best beta {found.best_beta:.3g}, in a sweep {measured:.3g}")
    assert 0.5 <= found.best_beta / measured <= 2
    np.testing.assert_allclose(found.error(measured), errors.min(), rtol=0.5)
    if (
        name == "oscillators"
    ):  # error^2 = (b beta^p)^2 + (noise / beta)^2 is least where p (b beta^p)^2 = (noise / beta)^2
        p, at = (2, 8) if scheme == "centered" else (1, 4)
        b = found.biases[at] / found.betas[at] ** p
        law = (found.noise / (p**0.5 * b)) ** (1 / (p + 1))
        assert 0.5 <= law / measured <= 2


@pytest.mark.fast
def test_a_budget_says_what_is_measured():
    """One linear layer: the displacement is known, and the cosine at the critical noise is 0.9 again."""
    given = data(LINEAR)
    found = budget(LINEAR, *given, "squared_error", beta=0.05, read_noise=1e-3)
    assert isinstance(found, Budget)
    params, x, y = given
    s = x @ params[0]["kernel"] + params[0]["bias"][None]
    np.testing.assert_allclose(found.rms[0], jnp.sqrt(jnp.mean(s**2)), rtol=1e-5)
    # s^beta = (s + beta c y) / (1 + beta c) for the cost c/2 (s - y)^2
    c = jax.hessian(lambda o: epjax.cost.squared_error(o, y[0]))(s[0])[0, 0]
    moved = [beta * c / (1 + beta * c) * (jax.nn.one_hot(y, 3, dtype=s.dtype) - s) for beta in (0.05, -0.05)]
    np.testing.assert_allclose(found.displacement[0], jnp.sqrt(jnp.mean(jnp.stack(moved) ** 2)), rtol=1e-3)
    # every sample of dE/dW has noise sigma x_i / (sqrt(2) beta B), of dE/db the same without x_i
    sigma = 1e-3 * jnp.sqrt(jnp.mean(s**2, axis=1))
    total = jnp.sum((1 + jnp.sum(x**2, axis=1)) * sigma**2) * 3 / (2 * 4**2)
    g = flat(epjax.exact_value_and_grad(LINEAR, "squared_error")(*given)[1])
    np.testing.assert_allclose(found.noise, jnp.sqrt(total) / jnp.linalg.norm(g), rtol=0.3)
    at = budget(LINEAR, *given, "squared_error", beta=0.05, read_noise=found.critical_noise)
    np.testing.assert_allclose(at.cosine, 0.9, atol=0.01)
    span = float(s.max() - s.min())
    bits = np.log2(1 + span / (12**0.5 * found.critical_noise * found.rms[0]))
    np.testing.assert_allclose(found.bits[0], bits, rtol=1e-4)
    assert found.verdict.startswith("It can learn: ")
    np.testing.assert_allclose(found.layer_noise[0], found.critical_noise, rtol=0.05)  # one layer is the whole
    np.testing.assert_allclose(found.energy[0], 0.5 * found.displacement[0] ** 2, rtol=1e-6)  # kappa = 1
    assert found.passes[0] <= 2
    assert 1 <= found.passes[1] <= 6  # a nudge contracts by beta
    assert found.verdict in str(found)
    assert len(str(found).splitlines()) == 5
    lost = budget(LINEAR, *given, "squared_error", beta=0.05, read_noise=10 * found.critical_noise)
    assert lost.verdict.startswith("Not at this beta: ")
    with pytest.raises(ValueError, match=r"^beta must lie between"):
        found.error(100.0)


def test_bits_are_as_few_as_the_cosine_allows(tmp_path):
    given = data(HOPFIELD)
    found = budget(HOPFIELD, *given, "squared_error", beta=0.05, read_noise=1e-3)
    exact = epjax.exact_value_and_grad(HOPFIELD, "squared_error")(*given)[1]
    states = jax.vmap(lambda x: HOPFIELD.free(given[0], x).states)(given[1])
    low, high = (jnp.asarray([f(s) for s in states]) for f in (jnp.min, jnp.max))
    wide = 0.05 * (high - low)
    for k, bits in enumerate(found.layer_bits):
        cosines = []
        for b in (bits - 1, bits):
            device = Device(HOPFIELD, adc=Adc(b, low - wide, high + wide))
            g = epjax.value_and_grad(device, "squared_error", beta=0.05, errors="recomputed")
            a, e = (flat(v[k]) for v in (jax.jit(g)(*given)[1], exact))
            cosines.append(float(a @ e / (jnp.linalg.norm(a) * jnp.linalg.norm(e))))
        assert cosines[0] < 0.9 <= cosines[1]
    found.draw(tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path, capsys):
    with jax.enable_x64(False):
        words = ["--system", "hopfield", "--sizes", "6", "10", "--pixels", "8", "--images", "4", "--mismatch", "0.2"]
        assert main([*words, "--out", str(tmp_path / "budget.png")]) == 0
        assert (tmp_path / "budget.png").exists()
        said = capsys.readouterr().out
        assert "hopfield of 6 10, 4 images" in said
        assert "best beta" in said
        assert main([*words, "--read-noise", "-1"]) == 1
        assert "read_noise must be a finite number, at least 0" in capsys.readouterr().err


@pytest.mark.fast
def test_the_command_is_one_of_epjax(capsys):
    sizes = ["--sizes", "6", "10", "--images", "2", "--pixels", "8"]
    assert cli.main(["hardware", "--system", "hopfield", *sizes]) == 0
    assert "best beta" in capsys.readouterr().out
    assert cli.main(["hardware", "--system", "hopfield", *sizes, "--images", "0"]) == 1
    assert capsys.readouterr().err == "error: images must be at least 1, got 0\n"
