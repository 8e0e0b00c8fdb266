"""Optimisers and schedules by name: against optax's own calls written by hand, formulas, and NumPy.

Would catch: a decay on the wrong side of the momentum or times another rate, a clip after the decay, rates of layers
that one optimiser forgets, a bias that decays when told not to, an average that starts from the first parameters, an
average of parameters before the projection, a schedule that falls too early, a refusal that does not say what to give.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import epjax
from epjax.network.activation import identity, tanh
from epjax.network.drive import Dense
from epjax.training.optimiser import (
    OPTIMISERS,
    SCHEDULES,
    averaged,
    constant,
    cosine,
    evaluated,
    linear,
    named,
    no_bias_or_scale,
    scheduled,
    sgd,
    stable_decay,
    warmed_up,
)
from epjax.training.step import initial_state, train_step

pytestmark = pytest.mark.fast

RATE, DECAY = 0.05, 0.03


@pytest.fixture
def usual_promotion():
    """What optax was written for: its Adam, which Muon has too, raises a float to an int."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tree(seed):
    """Two layers: a convolution with a norm, and a dense one."""
    random = np.random.default_rng(seed)
    shapes = (
        {"Conv_0": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "GroupNorm_0": {"scale": (4,), "bias": (4,)}},
        {"kernel": (6, 5), "bias": (5,)},
    )
    draw = lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple) and isinstance(leaf[0], int))


def steps(optimiser, count=2):
    """The parameters after each step."""
    params, found = tree(0), []
    state = optimiser.init(params)
    for step in range(count):
        updates, state = optimiser.update(tree(step + 1), state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found, state


def assert_equal(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 0} | tolerance)), one, other)


def by_hand(mask=None):
    """Each optimiser as a user of optax would write it."""
    decayed = optax.add_decayed_weights(DECAY, mask)
    return {
        "sgd": optax.chain(decayed, optax.sgd(RATE, momentum=0.9, nesterov=True)),
        "adam": optax.chain(decayed, optax.adam(RATE, b1=0.9)),
        "adamw": optax.adamw(RATE, b1=0.9, weight_decay=DECAY, mask=mask),
        "lion": optax.lion(RATE, b1=0.9, weight_decay=DECAY, mask=mask),
        "muon": optax.contrib.muon(RATE, beta=0.9, weight_decay=DECAY, adam_weight_decay=DECAY),
    }


@pytest.mark.parametrize("name", OPTIMISERS)
def test_two_steps_are_optax_s(name, usual_promotion):
    assert_equal(steps(named(name, RATE, DECAY))[0], steps(by_hand()[name])[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "muon"])
def test_biases_and_scales_do_not_decay_when_told(name, usual_promotion):
    asked = steps(named(name, RATE, DECAY, decay_norms=False))[0]
    assert_equal(asked, steps(by_hand(no_bias_or_scale)[name])[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_does_not_decay_moves_as_without_a_decay(name, usual_promotion):
    (_, partly), (_, none), (_, whole) = (
        steps(named(name, RATE, decay, decay_norms=norms))[0]
        for decay, norms in ((DECAY, False), (0.0, True), (DECAY, True))
    )
    for is_weight, a, b, c in zip(*map(jax.tree.leaves, (no_bias_or_scale(none), partly, none, whole)), strict=True):
        np.testing.assert_array_equal(a, c if is_weight else b)
        assert not np.array_equal(b, c)


def test_sgd_by_name_is_sgd_bit_for_bit_and_its_state_too():
    """The checkpoints of before hold this state, so its structure must not move."""
    for rates in ((), (0.5, 2.0)):
        rate = cosine(0.1, 0.0, 5)
        one = steps(named("sgd", rate, DECAY, 0.8, layer_rates=rates))
        other = steps(sgd(rate, DECAY, 0.8, layer_rates=rates))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    state = named("sgd", rate, DECAY).init({"w": jnp.ones(2)})
    assert [type(link).__name__ for link in state] == ["EmptyState", "TraceState", "ScaleByScheduleState"]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_has_rates_of_layers(name, usual_promotion):
    """After one step from the same state the first layer has moved by half, the second twice as far."""
    start = tree(0)
    plain, scaled = (steps(named(name, RATE, DECAY, layer_rates=rates), 1)[0][0] for rates in ((), (0.5, 2.0)))
    for factor, p, a, b in zip((0.5, 2.0), start, plain, scaled, strict=True):
        moved = jax.tree.map(lambda p, a, factor=factor: factor * (a - p), p, a)
        assert_equal(jax.tree.map(jnp.subtract, b, p), moved, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_before_the_decay():
    gradient = tree(1)
    norm = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(gradient)))
    for most, factor in ((norm / 4, 0.25), (norm * 4, 1.0)):
        clipped = steps(named("sgd", RATE, DECAY, 0.0, clip_norm=most), 1)[0][0]
        expected = jax.tree.map(lambda p, g, f=factor: p - RATE * (f * g + DECAY * p), tree(0), gradient)
        assert_equal(clipped, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_the_average_is_that_of_numpy(decay):
    plain = named("lion", RATE, DECAY)
    path, _ = steps(plain, 6)
    same, state = steps(averaged(plain, decay), 6)
    jax.tree.map(np.testing.assert_array_equal, path, same)
    total, weights = None, 0.0
    for params in path:
        seen = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
        total = [
            (1 - decay) * p + decay * (0.0 if total is None else t) for p, t in zip(seen, total or seen, strict=True)
        ]
        weights = decay * weights + (1 - decay)
    found = evaluated(same[-1], state)
    for a, t in zip(jax.tree.leaves(found), total, strict=True):
        np.testing.assert_allclose(a, t / weights, rtol=2e-5, atol=1e-6)
    assert evaluated(path[-1], plain.init(path[-1])) is path[-1]


def test_the_average_is_of_projected_parameters_and_first_of_those_after_a_step():
    optimiser = averaged(sgd(1.0, momentum=0.0), 0.5, project=lambda p: jax.tree.map(lambda w: jnp.maximum(w, 0.0), p))
    params, gradient = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 1.0])}
    state = optimiser.init(params)
    np.testing.assert_array_equal(evaluated(params, state)["w"], params["w"])
    _, state = optimiser.update(gradient, state, params)
    np.testing.assert_array_equal(evaluated(params, state)["w"], [0.0, 1.0])


def test_a_step_that_is_left_out_leaves_the_average():
    """Its weight too, which would otherwise forget the start too soon."""

    def linear(params, x, y, key):
        aux = SimpleNamespace(output=jnp.zeros((4, 3)), solution=None, free=None)
        return (jnp.mean(x), aux), {"w": jnp.full(3, jnp.mean(x))}

    optimiser = averaged(named("lion", RATE, clip_norm=1.0), 0.5)
    step, state = train_step(linear, optimiser, lambda x: x), initial_state({"w": jnp.ones(3)}, optimiser)
    batch = lambda value: {"image": jnp.full((4, 1, 1, 1), value), "label": jnp.zeros(4, jnp.int32)}  # noqa: E731
    seen = []
    for value in (np.nan, 1.0, np.inf, 2.0):
        state, _ = step(state, batch(value))
        seen.append((np.asarray(state.opt_state.average["w"])[0], float(state.opt_state.weight)))
    first, second = 1 - RATE, 1 - 2 * RATE
    averages = [1.0, first, first, (0.5 * first + second) / 1.5]
    np.testing.assert_allclose(seen, np.stack([averages, [0.0, 0.5, 0.5, 0.75]], 1), rtol=1e-6)


def test_incremental_learning_takes_them_too(usual_promotion):
    """Its loop carries the state, so every dtype must stay; the average counts every update of a batch."""
    net = epjax.Network((epjax.Layer(Dense(4), tanh), epjax.Layer(Dense(3), identity)))
    params = net.init(jax.random.key(0), (5,))
    x, y = jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6) % 3
    for name in OPTIMISERS:
        optimiser = averaged(named(name, 0.01, DECAY, clip_norm=1.0), 0.9)
        update = jax.jit(epjax.pc.incremental_update(net, optimiser, steps=4))
        _, new, state = update(params, optimiser.init(params), x, y)
        assert float(state.weight) == pytest.approx(1 - 0.9**4, rel=1e-5)
        assert not np.array_equal(evaluated(new, state)[0]["kernel"], params[0]["kernel"])


def test_schedules_are_their_formulas():
    initial, final, periods, length = 0.3, 0.01, 10, 4
    share = np.arange(11) / 10
    formulas = {
        "cosine": final + (initial - final) * (1 + np.cos(np.pi * share)) / 2,
        "constant": np.full(11, initial),
        "linear": initial + (final - initial) * share,
        "warmup-stable-decay": np.where(share <= 0.8, initial, initial + (final - initial) * (share - 0.8) / 0.2),
    }
    assert formulas.keys() == SCHEDULES.keys()
    for name, expected in formulas.items():
        schedule = scheduled(name, initial, final, periods, length)
        for within in (0, 3):
            found = [float(schedule(jnp.int32(length * done + within))) for done in range(11)]
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-8, err_msg=name)
        assert float(schedule(1000)) == pytest.approx(expected[-1])
        warm = warmed_up(schedule, 2)
        np.testing.assert_allclose([float(warm(step)) for step in range(3)], [0.15, 0.3, 0.3], rtol=1e-6)


def test_a_share_of_the_decay():
    schedule = scheduled("warmup-stable-decay", 1.0, 0.0, 8, decay_share=0.5)
    np.testing.assert_allclose([float(schedule(step)) for step in range(9)], [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("make", [cosine, linear, constant, stable_decay])
def test_an_empty_run_is_refused_by_every_schedule(make):
    with pytest.raises(ValueError, match="periods must be at least 1, but is 0"):
        make(0.1, 0.0, periods=0)


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (lambda: named("sdg", 0.1), "optimiser must be one of sgd, adam, adamw, lion, muon, got 'sdg'"),
        (lambda: named("adamw", 0.1, momentum=1.0), "momentum must be at least 0 and less than 1, got 1.0"),
        (lambda: named("lion", 0.1, layer_rates=(1.0, -1.0)), r"layer_rates must not be negative, got \(1.0, -1.0\)"),
        (lambda: named("sgd", 0.1, clip_norm=0.0), "clip_norm must be a finite number greater than 0, got 0.0"),
        (lambda: named("sgd", 0.1, clip_norm=np.inf), "clip_norm must be a finite number greater than 0, got inf"),
        (lambda: averaged(sgd(0.1), 1.0), "ema must be greater than 0 and less than 1, got 1.0"),
        (lambda: averaged(sgd(0.1), np.nan), "ema must be greater than 0 and less than 1, got nan"),
        (
            lambda: scheduled("step", 0.1, 0.0, 2),
            "schedule must be one of cosine, constant, linear, warmup-stable-decay, got 'step'",
        ),
        (
            lambda: scheduled("linear", 0.1, 0.0, 2, decay_share=0.2),
            "decay_share is for schedule warmup-stable-decay, got 0.2 with schedule 'linear'",
        ),
        (
            lambda: scheduled("warmup-stable-decay", 0.1, 0.0, 2, decay_share=0.0),
            "decay_share must be greater than 0 and at most 1, got 0.0",
        ),
        (lambda: stable_decay(0.1, 0.0, 2, share=2.0), "share must be greater than 0 and at most 1, got 2.0"),
    ],
)
def test_refusals_say_what_is_allowed(refused, sentence):
    with pytest.raises(ValueError, match=sentence):
        refused()
