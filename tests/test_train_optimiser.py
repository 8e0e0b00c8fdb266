"""The optimiser against PyTorch's SGD written out in NumPy, and the cosine against its formula.

Would catch: decay added after the momentum or not to biases, a momentum that is damped at the first step, a
Nesterov term from the wrong side, a cosine that moves within an epoch or ends too early.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epjax.training.optimiser import cosine, sgd, warmed_up


def torch_sgd(p, gradients, rates, weight_decay, momentum, nesterov):
    """torch.optim.SGD without dampening: the buffer starts as the first gradient."""
    p, buffer = p.astype(np.float64), None
    for g, rate in zip(gradients, rates, strict=True):
        d = g + weight_decay * p
        buffer = d if buffer is None else momentum * buffer + d
        p = p - rate * (d + momentum * buffer if nesterov else buffer)
    return p


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_pytorch(nesterov):
    random = np.random.default_rng(0)
    params = {"kernel": random.normal(size=(3, 4)), "bias": random.normal(size=4)}
    gradients = [{name: random.normal(size=p.shape) for name, p in params.items()} for _ in range(7)]
    schedule = cosine(0.3, 0.001, periods=4, steps_per_period=2)
    rates = [float(schedule(jnp.int32(step))) for step in range(7)]
    optimiser = sgd(schedule, weight_decay=0.05, momentum=0.9, nesterov=nesterov)

    def f32(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)

    p, state = f32(params), optimiser.init(f32(params))
    for g in gradients:
        updates, state = optimiser.update(f32(g), state, p)
        p = optax.apply_updates(p, updates)
    for name in params:
        expected = torch_sgd(params[name], [g[name] for g in gradients], rates, 0.05, 0.9, nesterov)
        np.testing.assert_allclose(p[name], expected, rtol=2e-6, atol=2e-6)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((p, state))}
    assert {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)} == {jnp.dtype("float32")}


def test_cosine_is_stepped_once_an_epoch():
    schedule = cosine(0.02, 2e-6, periods=50, steps_per_period=10)
    epochs = np.arange(51)
    expected = 2e-6 + 0.5 * (0.02 - 2e-6) * (1 + np.cos(np.pi * epochs / 50))
    for within in (0, 9):
        measured = [float(schedule(10 * epoch + within)) for epoch in epochs]
        np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-9)
    assert float(schedule(10_000)) == pytest.approx(2e-6)


def test_cosine_refuses_an_empty_run():
    with pytest.raises(ValueError, match="periods must be at least 1, but is 0"):
        cosine(0.1, 0.0, periods=0)


def test_warm_up_rises_by_equal_steps_to_where_the_decay_begins():
    """At step 0 it is already one step high, so that no step is lost, and the decay starts at its first rate."""
    schedule = warmed_up(cosine(0.1, 0.0, periods=20), steps=5)
    measured = [float(schedule(jnp.int32(step))) for step in range(26)]
    np.testing.assert_allclose(measured[:5], [0.02, 0.04, 0.06, 0.08, 0.1], rtol=1e-6)
    np.testing.assert_allclose(measured[5:], [0.05 * (1 + np.cos(np.pi * t / 20)) for t in range(21)], atol=1e-8)
    plain = cosine(0.1, 0.0, periods=20)
    assert warmed_up(plain, steps=0) is plain
