"""What y means. Oracle: one table, written by hand, and float64 costs of NumPy.

Catches a one-hot label that is taken for indices, a label outside the classes that costs nothing, an integer dtype that
is too small to count to the number of classes, labels that one cost or one entry takes and another does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.cost import as_target, check_labels

COSTS = {"cross_entropy": epjax.cost.cross_entropy, "squared_error": epjax.cost.squared_error}
NET = epjax.models.mlp([3])
X = jax.random.normal(jax.random.key(0), (4, 5))
INDICES, SOFT = np.array([0, 2, 1, 2]), np.array([[0.5, 0.25, 0.25], [0, 0, 1], [0, 1, 0], [0.25, 0.5, 0.25]])
ONE_HOT = np.eye(3)[INDICES]


def weights(y, how):
    return jnp.asarray(y).astype(how)


MEANING = {
    **{f"indices {t}": (weights(INDICES, t), ONE_HOT) for t in ("int32", "int8", "uint8", "uint32", "float32")},
    "indices bfloat16": (weights(INDICES, "bfloat16"), ONE_HOT),
    "indices bool": (weights(INDICES > 0, bool), np.eye(3)[(INDICES > 0).astype(int)]),
    "indices int64 of NumPy": (INDICES, ONE_HOT),
    **{f"column {t}": (weights(INDICES[:, None], t), ONE_HOT) for t in ("int32", "float32")},
    **{f"one-hot {t}": (weights(ONE_HOT, t), ONE_HOT) for t in ("int32", "uint8", "bool", "float32", "bfloat16")},
    "soft": (weights(SOFT, "float32"), SOFT),
}

REFUSED = {
    "one class too many": ([0, 3, 1, 2], "int32", r"class indices 0\.\.2, whole numbers, got 3 at y\[1\]"),
    "ignored": ([0, 1, -1, 2], "int32", r"class indices 0\.\.2, whole numbers, got -1 at y\[2\]"),
    "column": ([[0], [1], [2], [7]], "int32", r"class indices 0\.\.2, whole numbers, got 7 at y\[3, 0\]"),
    "half": ([0, 1, 0.5, 2], "float32", r"class indices 0\.\.2, whole numbers, got 0\.5 at y\[2\]"),
    "not a number": ([0, 1, np.nan, 2], "float32", r"class indices 0\.\.2, whole numbers, got nan"),
    "infinite target": (np.where(ONE_HOT, np.inf, 0.0), "float32", r"y must be finite, got|must sum to one"),
    "other classes": (np.eye(4), "float32", r"class indices \[B\] or class weights \[B, 3\], got float32 \[4, 4\]"),
    "maps": (np.zeros((4, 3, 1)), "float32", r"class weights \[B, 3\], got float32 \[4, 3, 1\]"),
    "other batch": ([0, 1], "int32", r"a label for each of 4 examples, got shape \(2,\)"),
    "complex": (ONE_HOT, "complex64", "y must be integers, booleans or floats, got complex64"),
}


def of_numpy(cost, h, target):
    if cost == "squared_error":
        return 0.5 * ((h - target) ** 2).sum(axis=1)
    return -(target * (h - np.log(np.exp(h).sum(axis=1, keepdims=True)))).sum(axis=1)


@pytest.fixture(scope="module")
def params():
    return NET.init(jax.random.key(1), (5,))


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("y", "target"), MEANING.values(), ids=MEANING)
def test_the_shape_says_what_y_means(params, y, target, cost):
    """The same value from the cost, from EP, from backpropagation and from the loss; outside jit and within."""
    h = np.array(jax.random.normal(jax.random.key(2), (4, 3)), np.float64)
    found = jax.vmap(COSTS[cost])(jnp.asarray(h, jnp.float32), jnp.asarray(y))
    np.testing.assert_allclose(found, of_numpy(cost, h, target), rtol=1e-5)
    output = np.asarray(X, np.float64) @ np.asarray(params[0]["kernel"], np.float64)
    expected = of_numpy(cost, output, target).mean()
    for entry in (epjax.value_and_grad, epjax.backprop_value_and_grad):
        f = entry(NET, COSTS[cost])
        for run in (f, jax.jit(f)):
            np.testing.assert_allclose(run(params, X, y, None)[0][0], expected, rtol=1e-5)
    np.testing.assert_allclose(epjax.ep_loss(NET, COSTS[cost])(params, X, y), expected, rtol=1e-5)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("values", "dtype", "sentence"), REFUSED.values(), ids=REFUSED)
def test_other_labels_are_refused(params, values, dtype, sentence, cost):
    y = jnp.asarray(values).astype(dtype)
    entries = (
        lambda: epjax.value_and_grad(NET, COSTS[cost])(params, X, y, None),
        lambda: epjax.backprop_value_and_grad(NET, COSTS[cost])(params, X, y, None),
        lambda: epjax.ep_loss(NET, COSTS[cost])(params, X, y),
        lambda: epjax.diagnose(NET, params, X, y, cost=COSTS[cost]),
        lambda: epjax.value_and_grad(NET, COSTS[cost], perturbation="clamp")(params, X, y, None),
    )
    for entry in entries:
        with pytest.raises(ValueError, match=sentence):
            entry()


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("y", [[0, 3, 1, 2], [0, 1, -1, 2], [0.0, 0.5, 1.0, 2.0]])
@pytest.mark.parametrize("perturbation", ["nudge", "clamp"])
def test_within_jit_a_label_of_no_class_makes_cost_and_gradient_nan(params, y, cost, perturbation):
    """Where values are not known, a run's guard against what is not finite sees it."""
    ep = jax.jit(epjax.value_and_grad(NET, COSTS[cost], perturbation=perturbation))
    bp = jax.jit(epjax.backprop_value_and_grad(NET, COSTS[cost]))
    for f in (ep, bp):
        (value, _), grads = f(params, X, jnp.asarray(y), None)
        assert np.isnan(value)
        assert np.isnan(grads[0]["kernel"]).any()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "float16"])
def test_small_dtypes_count_to_many_classes(dtype):
    """One class of 1,000, where int8 would wrap around to four."""
    target = as_target(jnp.asarray(5).astype(dtype), 1000, jnp.dtype("float32"))
    np.testing.assert_array_equal(target, np.eye(1000)[5])


def test_int64_labels_do_not_wrap_into_the_classes(x64):
    target = as_target(jnp.asarray(2**32 + 1), 3, jnp.dtype("float32"))
    assert np.isnan(target).all()
    with pytest.raises(ValueError, match="got 4294967297 at"):
        check_labels(epjax.cost.squared_error, np.array([2**32 + 1]), 3)


def test_a_cost_of_the_users_own():
    """It takes what it likes, one number for one example."""
    params = NET.init(jax.random.key(0), (5,))

    def huber(h, y):
        return jnp.sum(jnp.where(jnp.abs(h - y) < 1, 0.5 * (h - y) ** 2, jnp.abs(h - y) - 0.5))

    y = jax.random.normal(jax.random.key(3), (4, 3))
    ep, bp = epjax.value_and_grad(NET, huber, beta=1e-3), epjax.backprop_value_and_grad(NET, huber)
    (_, grads), (_, exact) = (f(params, X, y, None) for f in (ep, bp))
    np.testing.assert_allclose(grads[0]["kernel"], exact[0]["kernel"], rtol=2e-2, atol=1e-4)
    with pytest.raises(ValueError, match=r"cost <lambda> must give one number .*, got float32 \[3\]"):
        epjax.value_and_grad(NET, lambda h, y: h - y)(params, X, y, None)
    with pytest.raises(ValueError, match=r"cost huber refuses output \(3,\) and y \(2,\) of one example"):
        epjax.value_and_grad(NET, huber)(params, X, y[:, :2], None)
    for wrong in ("mean_error", 3, type(NET)):
        with pytest.raises(ValueError, match="cost must be one of cross_entropy, squared_error, log_phase, or a"):
            epjax.value_and_grad(NET, wrong)
