"""Oracle: faults that are put in on purpose, and functions whose kinks are known.

Catches a verdict that names the wrong fault or finds one where there is none, a kink that is overlooked or invented,
and numbers that are not those of the gradient.
"""

import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import epjax
from epjax.diagnosis.kinks import switches
from epjax.network.drive import Conv

NET = epjax.models.mlp([12] * 3 + [4], gain=2.0)


@pytest.fixture(scope="module")
def batch():
    return NET.init(jax.random.key(0), (8,)), jax.random.normal(jax.random.key(1), (8, 8)), jnp.arange(8) % 4


def diagnose(batch, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "iterations=")
        return epjax.diagnose(NET, *batch, **options)


def test_a_good_gradient(batch, tmp_path):
    report = diagnose(batch, beta=1e-3)
    assert report.verdict == "good"
    assert report.cosine > 0.9999
    assert abs(report.norm_ratio - 1) < 1e-3
    assert report.residuals[0] == 1 > report.residuals[1]
    bp = epjax.backprop_value_and_grad(NET, epjax.cost.cross_entropy)
    ep = epjax.value_and_grad(NET, epjax.cost.cross_entropy, beta=1e-3)
    (_, b), (_, g) = (jax.jit(f)(*batch, None) for f in (bp, ep))
    for layer, mine, other in zip(report.layers, g, b, strict=True):
        one, two = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(t)]).astype(np.float64) for t in (mine, other))
        np.testing.assert_allclose(layer.cosine, one @ two / np.sqrt((one @ one) * (two @ two)), rtol=1e-5)
    report.draw(tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1800, 585)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"beta": 3.0}, "beta too large"),
        ({"beta": 1e-7, "errors": "recomputed"}, "drowned in rounding"),
        ({"beta": 1e-3, "equilibration": epjax.Async(1)}, "not settled"),
        ({"beta": 1e-3, "equilibration": epjax.Sync(4)}, "not settled"),
    ],
)
def test_a_fault_is_named(batch, options, verdict):
    report = diagnose(batch, **options)
    assert report.verdict == verdict, report
    assert report.worst_cosine < 0.95
    assert str(report).startswith(f"{verdict}: ")
    if verdict == "beta too large":
        assert max(layer.crossings for layer in report.layers) > 0.05
    if verdict == "drowned in rounding":
        assert report.layers[0].error < 10 * report.rounding


def test_bad_input_is_one_sentence(batch):
    with pytest.raises(ValueError, match="beta must be a finite positive"):
        diagnose(batch, beta=0.0)
    with pytest.raises(ValueError, match="scheme must be one of"):
        diagnose(batch, scheme="sideways")


def crossed(f, one, other):
    """How many switches of f differ."""
    return sum(int((a != b).sum()) for a, b in zip(switches(f, one), switches(f, other), strict=True))


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (jax.nn.relu, 2),
        (jax.nn.hard_tanh, 1),
        (jnp.abs, 2),
        (jax.nn.leaky_relu, 2),
        (lambda x: jnp.clip(x, -0.5, 0.5), 2),
        (lambda x: nn.max_pool(x[None, :, None], (2,), (2,)), 2),
        (jnp.max, 2),
        (jax.nn.softplus, 0),
        (jax.nn.gelu, 0),
        (jax.nn.softmax, 0),
        (jax.nn.log_softmax, 0),
        (lambda x: jax.jit(jnp.tanh)(x) @ jnp.ones(4), 0),
    ],
)
def test_switches(f, count):
    """Signs of the first and the second number change; in the first pair, and in all, the maximum moves."""
    one, other = jnp.array([1.2, -0.3, 0.2, 0.4]), jnp.array([-0.6, 0.3, 0.2, 0.4])
    assert crossed(jax.jit(f), one, other) == count


def test_routes_of_the_library_s_pooling():
    drive, h = Conv(1, pool=True), jax.random.normal(jax.random.key(0), (4, 4, 1))
    params = drive.init(jax.random.key(1), h)
    f = partial(drive.apply, params)
    assert crossed(f, h, h) == 0
    assert crossed(f, h, -h) > 4
