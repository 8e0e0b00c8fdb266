"""The train step and the evaluation against the same arithmetic in NumPy.

Would catch: a normalisation that is off, randomness that depends on more than seed and step, a step that is
not finite but moves the parameters, top-5 counted as top-1, padded images that count, images that are
skipped or seen twice, a broken network that is counted as right.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import epjax
from epjax.runs.stopping import broken
from epjax.training.evaluation import eval_step, evaluate, rank_of_label
from epjax.training.optimiser import sgd
from epjax.training.step import Normalise, TrainState, initial_state, train_step


@jax.tree_util.register_dataclass
@dataclass
class Aux:
    output: jax.Array
    solution: Any = None


def identity(image):
    return image.astype(jnp.float32)


def linear(params, x, y, key):
    """A value_and_grad whose cost is the mean pixel times w, plus a draw from each example's key."""
    del y
    noise = jnp.mean(jax.vmap(jax.random.normal)(key))
    flat = x.reshape(x.shape[0], -1)
    output = jnp.broadcast_to(params["w"], (x.shape[0], 3)) * flat[:, :3]
    return (jnp.mean(flat) * jnp.sum(params["w"]) + noise, Aux(output)), {"w": jnp.full(3, jnp.mean(flat))}


def batch(images, labels, **more):
    return {"image": jnp.asarray(images, jnp.uint8), "label": jnp.asarray(labels, jnp.int32), **more}


def some_batch(seed=0):
    random = np.random.default_rng(seed)
    return batch(random.integers(0, 256, (4, 2, 2, 3)), random.integers(0, 3, 4))


def start(rate=0.1):
    optimiser = sgd(rate, weight_decay=0.0, momentum=0.0, nesterov=False)
    return optimiser, initial_state({"w": jnp.array([1.0, 2.0, 3.0])}, optimiser)


def test_normalise():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image / 255.0 - np.array(mean)) / np.array(std)
    measured = Normalise(mean, std)(jnp.asarray(image))
    assert measured.dtype == jnp.float32
    np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-5)


def test_one_step_updates_and_measures():
    optimiser, state = start()
    data = some_batch()
    image = np.asarray(data["image"], np.float64)
    w = np.array([1.0, 2.0, 3.0])
    output = w * image.reshape(4, -1)[:, :3]
    new, metrics = train_step(linear, optimiser, identity, seed=3)(state, data)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(3), jnp.int32(0)), 4)
    noise = np.mean([float(jax.random.normal(key)) for key in keys])
    np.testing.assert_allclose(new.params["w"], w - 0.1 * image.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["cost"], image.mean() * w.sum() + noise, rtol=1e-5)
    assert int(new.step) == 1
    assert float(metrics["top1_error"]) == np.mean(output.argmax(1) != np.asarray(data["label"]))
    assert float(metrics["top5_error"]) == 0.0
    assert bool(metrics["finite"])


def test_randomness_is_a_function_of_seed_and_step():
    optimiser, state = start(rate=0.0)
    step = train_step(linear, optimiser, identity, seed=3)
    costs = []
    for _ in range(3):
        state, metrics = step(state, some_batch())
        costs.append(float(metrics["cost"]))
    again = TrainState(state.params, state.opt_state, jnp.int32(1))
    assert float(step(again, some_batch())[1]["cost"]) == costs[1]
    assert len(set(costs)) == 3
    _, fresh = start(rate=0.0)
    assert float(train_step(linear, optimiser, identity, seed=4)(fresh, some_batch())[1]["cost"]) != costs[0]


@pytest.mark.parametrize("where", ["cost", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counter(where, value):
    def breaks(params, x, y, key):
        (cost, aux), grads = linear(params, x, y, key)
        grads = {"w": grads["w"].at[1].set(value)} if where == "gradient" else grads
        return (cost + value if where == "cost" else cost, aux), grads

    optimiser = sgd(0.1, weight_decay=0.1)
    state = initial_state({"w": jnp.ones(3)}, optimiser)
    new, metrics = train_step(breaks, optimiser, identity)(state, some_batch())
    assert not bool(metrics["finite"])
    assert broken(jax.device_get(metrics)) == {"cost": "the cost", "gradient": "a gradient"}[where]
    np.testing.assert_array_equal(new.params["w"], np.ones(3))
    np.testing.assert_array_equal(optax.tree.get(new.opt_state, "trace")["w"], np.zeros(3))
    assert int(new.step) == 1


def test_a_large_gradient_is_finite():
    """Its norm is not, in float32."""

    def large(params, x, y, key):
        (cost, aux), _ = linear(params, x, y, key)
        return (cost, aux), {"w": jnp.full(3, 1e30)}

    optimiser = sgd(1e-30, momentum=0.0, nesterov=False)
    state = initial_state({"w": jnp.zeros(3)}, optimiser)
    new, metrics = train_step(large, optimiser, identity)(state, some_batch())
    assert bool(metrics["finite"])
    np.testing.assert_allclose(new.params["w"], -np.ones(3), rtol=1e-6)


@dataclass(frozen=True)
class Solution:
    residual: jax.Array


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_the_worst_residual_is_measured_and_guarded(value):
    def nudged(params, x, y, key):
        (cost, aux), grads = linear(params, x, y, key)
        residual = jnp.array([[0.1, 0.2], [0.0, value], [0.1, 0.1], [0.3, 0.1]], jnp.float32)
        return (cost, Aux(aux.output, Solution(residual))), grads

    optimiser, state = start()
    new, metrics = train_step(nudged, optimiser, identity)(state, some_batch())
    np.testing.assert_equal(float(metrics["residual"]), value)
    assert bool(metrics["finite"]) == (value == 0.5)
    assert (float(new.params["w"][0]) == 1.0) == (value != 0.5)
    assert broken(jax.device_get(metrics)) == (None if value == 0.5 else "the residual of the equilibria")


def test_the_state_is_donated():
    optimiser, state = start()
    train_step(linear, optimiser, identity)(state, some_batch())
    assert state.params["w"].is_deleted()


def test_rank_counts_classes_ahead_and_orders_ties_by_class():
    output = jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [jnp.nan, 0.0, 1.0], [0.0, 9.0, jnp.inf]])
    label = jnp.array([2, 0, 2, 2, 1], jnp.int32)
    np.testing.assert_array_equal(rank_of_label(output, label), [1, 0, 2, 3, 3])


@pytest.mark.parametrize("algorithm", ["ep", "bp"])
def test_the_library_s_gradients_fit_and_learn(algorithm):
    net = epjax.models.mlp([16, 3], gain=1.5)
    cost = epjax.cost.cross_entropy
    gradient = {
        "ep": epjax.value_and_grad(net, cost, beta=0.01),
        "bp": epjax.backprop_value_and_grad(net, cost),
    }[algorithm]
    net_input = (2, 2, 3)

    def flat_normalise(image):
        return Normalise((0.5,), (0.5,))(image).reshape(image.shape[0], -1)

    optimiser = sgd(0.1)
    state = initial_state(net.init(jax.random.key(0), (int(np.prod(net_input)),)), optimiser)
    step = train_step(gradient, optimiser, flat_normalise)
    costs = []
    for _ in range(30):
        state, metrics = step(state, some_batch())
        costs.append(float(metrics["cost"]))
    assert costs[-1] < 0.1 * costs[0]


def test_evaluation_counts_every_image_once():
    random = np.random.default_rng(1)
    images, labels = random.integers(0, 256, (11, 1, 1, 7)), random.integers(0, 7, 11)
    weights = random.normal(size=(7, 7)).astype(np.float32)
    output = images.reshape(11, 7) @ weights
    order = np.argsort(-output, axis=1)
    expected = {
        "val_top1_error": 100 * np.mean(order[:, 0] != labels),
        "val_top5_error": 100 * np.mean([labels[i] not in order[i, :5] for i in range(11)]),
        "val_cost": np.mean([0.5 * np.sum((output[i] - np.eye(7)[labels[i]]) ** 2) for i in range(11)]),
        "val_images": 11,
    }

    def forward(params, x):
        return (x, jnp.reshape(x, (-1,)) @ params)

    def batches(size):
        for first in range(0, 11, size):
            # The padding repeats a real image, so that a mask which is not used shows in the numbers.
            index = [i if i < 11 else 0 for i in range(first, first + size)]
            mask = jnp.array([i < 11 for i in range(first, first + size)])
            yield batch(images[index], labels[index], mask=mask)

    step = eval_step(forward, epjax.cost.squared_error, identity)
    for size in (4, 11, 16):
        measured = evaluate(step, jnp.asarray(weights), batches(size))
        assert measured == pytest.approx(expected, rel=1e-5)


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no image to evaluate"):
        evaluate(lambda params, batch: {}, None, [])
