"""Oracle: faults that are put in on purpose, and functions whose kinks are known.

Catches a verdict that names the wrong fault or finds one where there is none, a kink that is overlooked or invented,
and numbers that are not those of the gradient.
"""

import re
import warnings
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import epjax
from epjax.diagnosis import attempt, diagnoser
from epjax.network.drive import Conv
from epjax.network.kinks import switches
from epjax.runs.metrics import diagnosis_line

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
        ({"beta": 3.0, "scheme": "forward"}, "beta too large"),
        ({"beta": 3.0}, "negative phase does not exist"),
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


NAN, INF = float("nan"), float("inf")


def first_weight(params, value):
    return (params[0] | {"kernel": params[0]["kernel"].at[0, 0].set(value)}, *params[1:])


NO_DIRECTION = {
    "dead units": (lambda p, x, y: (jax.tree.map(jnp.zeros_like, p), 0 * x, y), "no gradient", "is zero, .*dead units"),
    "a parameter is NaN": (lambda p, x, y: (first_weight(p, NAN), x, y), "not finite", "for params hold numbers"),
    "x is infinite": (lambda p, x, y: (p, x.at[2, 3].set(INF), y), "not finite", "for x hold numbers"),
    "overflow": (lambda p, x, y: (first_weight(p, 3e38), 1e3 * x, y), "not finite", "overflows"),
}


@pytest.mark.parametrize(("change", "verdict", "advice"), NO_DIRECTION.values(), ids=NO_DIRECTION)
def test_a_gradient_without_direction_is_a_verdict(batch, change, verdict, advice, tmp_path):
    """Text, picture and JSON line are there all the same; NumPy says nothing."""
    params, x, y = change(*batch)
    flat = (lambda h, y: 0.0 * h[0]) if verdict == "no gradient" else epjax.cost.cross_entropy
    report = epjax.diagnose(NET, params, x, y, cost=flat, beta=1e-3)
    assert report.verdict == verdict, report
    assert re.search(advice, report.advice)
    assert np.isnan(report.cosine)
    assert str(report).startswith(f"{verdict}: backpropagation's gradient is")
    report.draw(tmp_path / "report.png")
    assert diagnosis_line(report)["verdict"] == verdict


def test_one_dead_layer_is_no_fault(batch):
    """A layer whose gradient vanishes has no cosine; the others have."""
    params = (*batch[0][:-1], batch[0][-1] | {"kernel": jnp.zeros((12, 4))})
    report = epjax.diagnose(NET, params, *batch[1:], beta=1e-3)
    assert report.verdict == "good"
    assert [layer.cosine is None for layer in report.layers] == [True, True, True, False]


def test_ep_that_overflows_where_backpropagation_does_not(batch):
    params, x, y = batch
    report = epjax.diagnose(NET, params, 1e4 * x, y, cost=epjax.cost.squared_error, beta=1e38)
    assert report.verdict == "not finite"
    assert report.advice.startswith("EP's gradient is not finite and backpropagation's is, at beta 1e+38")


def test_a_diagnosis_never_ends_a_run(batch):
    """Neither by its arguments nor by what the machine says."""

    def out_of_memory(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nmore lines")

    report = attempt(out_of_memory, *batch)
    assert (report.verdict, report.advice) == ("not done", "RESOURCE_EXHAUSTED: 3 GiB")
    assert diagnosis_line(report)["verdict"] == "not done"
    assert len(str(report).splitlines()) == 6
    assert attempt(out_of_memory, {"a": 0, "b": 1, "c": 2}, *batch[1:]).layers == ()
    params, x, y = batch
    assert "class indices 0..3" in attempt(diagnoser(NET), params, x, y + 3, None).advice


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


@pytest.mark.parametrize(("beta", "stays"), [(1e-4, False), (0.05, True)])
def test_sweeps_in_a_cycle_are_told_of(beta, stays):
    """Of a good gradient too: at a large beta ReLUs flip at every sweep, and the residual stays where it is."""
    net = epjax.models.vgg5(10, width=1 / 32, gain=2.0)
    x = jax.random.normal(jax.random.key(1), (4, 32, 32, 1))
    params, y = net.init(jax.random.key(0), (32, 32, 1)), jnp.arange(4)
    report = epjax.diagnose(net, params, x, y, beta=beta, equilibration=epjax.Sweep(12))
    assert report.verdict == "good"
    assert ("the residual stays at" in report.advice) is stays
    assert (report.residuals[-1] > 0.05) is stays
