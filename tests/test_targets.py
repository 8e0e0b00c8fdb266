"""Targets beyond one class an image. Oracle: float64 costs of NumPy, and backpropagation in float64.

Catches a cost that sums over the wrong axis, a position that does not count and counts, a shape of y that is taken for
another, an output with positions whose gradient by EP is another than the exact one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.cost import as_target, binary_cross_entropy, cross_entropy, squared_error
from epjax.network.activation import identity, relu
from epjax.network.drive import Conv, Dense

RNG = np.random.default_rng(0)
B, H, W, C = 3, 4, 4, 5
MAP = epjax.Network([epjax.Layer(Conv(6), relu), epjax.Layer(Conv(C), identity)])
VECTOR = epjax.Network([epjax.Layer(Dense(6), relu), epjax.Layer(Dense(C), identity)])
X = RNG.normal(size=(B, H, W, 2))
LABELS = RNG.integers(0, C, (B, H, W))
MASKED = np.where(RNG.random((B, H, W)) < 0.4, -1, LABELS)
SOFT = RNG.dirichlet(np.ones(C), (B, H, W))
CASES = {
    "a label for each position": (MAP, cross_entropy, LABELS),
    "labels of uint8": (MAP, cross_entropy, LABELS.astype(np.uint8)),
    "some do not count": (MAP, cross_entropy, MASKED),
    "soft labels for each position": (MAP, cross_entropy, SOFT),
    "a dense map": (MAP, squared_error, RNG.normal(size=(B, H, W, C))),
    "binary maps": (MAP, binary_cross_entropy, RNG.random((B, H, W, C))),
    "regression": (VECTOR, squared_error, RNG.normal(size=(B, C))),
    "many yes and no": (VECTOR, binary_cross_entropy, (RNG.random((B, C)) < 0.5).astype(np.int32)),
    "one yes": (VECTOR, binary_cross_entropy, LABELS[:, 0, 0]),
}


def of_numpy(cost, h, y):
    """Mean over examples; h [B, ..., C]."""
    counts = np.ones(h.shape[:-1], bool)
    if y.shape == h.shape:
        t = y.astype(float)
    else:
        counts = y != -1
        t = np.eye(h.shape[-1])[np.where(counts, y, 0)] * counts[..., None]
    if cost is squared_error:
        return 0.5 * ((h - t) ** 2).sum() / len(h)
    if cost is binary_cross_entropy:
        p = 1 / (1 + np.exp(-h))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum() / len(h)
    each = -(t * (h - np.log(np.exp(h).sum(-1, keepdims=True)))).sum(-1)
    return np.mean([e[c].mean() for e, c in zip(each.reshape(len(h), -1), counts.reshape(len(h), -1), strict=True)])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("net", "cost", "y"), CASES.values(), ids=CASES)
def test_value_and_gradient(net, cost, y):
    x, y = jnp.asarray(X), jnp.asarray(y)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), net.init(jax.random.key(0), X.shape[1:]))
    (exact_cost, aux), exact = jax.jit(epjax.backprop_value_and_grad(net, cost))(params, x, y, None)
    np.testing.assert_allclose(exact_cost, of_numpy(cost, np.asarray(aux.output), np.asarray(y)), rtol=1e-10)
    (ep_cost, _), grads = jax.jit(epjax.value_and_grad(net, cost, beta=1e-6))(params, x, y, None)
    np.testing.assert_allclose(ep_cost, exact_cost, rtol=1e-12)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * float(jnp.abs(other).max()))


@pytest.mark.usefixtures("x64")
def test_clamping_an_output_with_positions():
    """One layer: the clamped gradient is that of the squared error, whatever beta."""
    net = epjax.Network([epjax.Layer(Conv(C), identity)])
    params = jax.tree.map(lambda p: p.astype(jnp.float64), net.init(jax.random.key(0), X.shape[1:]))
    x, y = jnp.asarray(X), jnp.asarray(CASES["a dense map"][2])
    ep = epjax.value_and_grad(net, "squared_error", perturbation="clamp", beta=0.3)
    _, grads = ep(params, x, y, None)
    _, exact = epjax.backprop_value_and_grad(net, "squared_error")(params, x, y, None)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_a_diagnosis_of_maps():
    params = MAP.init(jax.random.key(0), X.shape[1:])
    report = epjax.diagnose(MAP, params, jnp.asarray(X, jnp.float32), jnp.asarray(MASKED), beta=1e-4)
    assert report.verdict == "good"


@pytest.mark.fast
def test_where_no_position_counts_there_is_no_gradient():
    h = jnp.ones((4, C))
    value, slope = jax.value_and_grad(cross_entropy)(h, jnp.full((4,), -1))
    assert value == 0
    assert not slope.any()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("net", "cost", "y", "words"),
    [
        (MAP, cross_entropy, np.full((B, H, W), C), r"class indices 0\.\.4, whole numbers, or -1 .*, got 5 at y"),
        (MAP, cross_entropy, np.full((B, H, W), -2), r"or -1 for a position that does not count, got -2"),
        (MAP, cross_entropy, np.zeros(B, int), r"class indices \[B, 4, 4\] or targets \[B, 4, 4, 5\], got int"),
        (MAP, cross_entropy, np.full((B, H, W, C), 0.5), r"must sum to one for cross_entropy"),
        (MAP, squared_error, np.full((B, H, W, C), np.inf), "y must be finite"),
        (
            VECTOR,
            binary_cross_entropy,
            np.full((B, C), 1.5),
            r"y must lie in \[0, 1\] for binary_cross_entropy, got 1\.5",
        ),
        (VECTOR, binary_cross_entropy, np.full(B, -1), r"class indices 0\.\.4, whole numbers, got -1"),
    ],
)
def test_other_targets_are_refused(net, cost, y, words):
    params = net.init(jax.random.key(0), X.shape[1:])
    with pytest.raises(ValueError, match=words):
        epjax.value_and_grad(net, cost)(params, jnp.asarray(X, jnp.float32), jnp.asarray(y), None)


@pytest.mark.fast
def test_of_one_example_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"y of an example must have shape \(2, 3\) or \(2,\), got \(3,\)"):
        as_target(jnp.zeros(3), (2, 3), jnp.dtype("float32"))
    with pytest.raises(ValueError, match="at least one axis"):
        squared_error(jnp.zeros(()), jnp.zeros(()))
