"""Oracle: float64. What rounding does to carried and to recomputed errors, and what each precision rounds.

Catches an error that is formed as a difference of two states, a product that is silently rounded, parameters or
errors that leave float32, a bfloat16 mode that loses more than bfloat16 must.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import ACTIVATIONS, hard_tanh, identity, relu, tanh
from epjax.network.precision import at_precision

CE = epjax.cost.cross_entropy


@pytest.mark.parametrize("activation", [relu, identity, hard_tanh, tanh])
@pytest.mark.parametrize("update", ["pgd", "mod_pgd"])
def test_small_errors_keep_their_digits(activation, update):
    """|T| = 1e-9 beside |a| = 1: in float32 the difference of two states would be 0 or 100% wrong."""
    if activation.bounds is None and update == "mod_pgd":
        pytest.skip("mod-PGD is for projections")
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.normal(size=50), [1e-9, -1e-9, 0.0, 1.0, -1.0]]).astype(np.float32)
    T = (1e-9 * rng.normal(size=a.size)).astype(np.float32)
    with jax.enable_x64(True):
        a64, T64 = jnp.array(a, jnp.float64), jnp.array(T, jnp.float64)
        if update == "mod_pgd":
            exact = activation(a64 + T64) - activation(a64)
        else:
            exact = activation.project(activation(a64) + T64) - activation(a64)
    error = activation.error(jnp.array(a), jnp.array(T), update)
    assert error.dtype == jnp.float32
    np.testing.assert_allclose(error, exact, rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_error_at_ordinary_size_is_the_definition(name):
    activation = ACTIVATIONS[name]
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        a, T = jnp.array(rng.normal(size=400) * 2), jnp.array(rng.normal(size=400) * 2)
        pgd = activation.project(activation(a) + T) - activation(a)
        np.testing.assert_allclose(activation.error(a, T, "pgd"), pgd, atol=1e-14)
        if activation.bounds is not None:
            np.testing.assert_allclose(activation.error(a, T, "mod_pgd"), activation(a + T) - activation(a), atol=1e-14)


def flat(tree):
    return np.concatenate([np.array(v, np.float64).ravel() for v in jax.tree.leaves(tree)])


def distance(a, b):
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


def setting(precision="float32", gain=2.0):
    net = epjax.models.vgg10(10, width=0.125, dense=64, gain=gain, precision=precision)
    params = net.init(jax.random.key(0), (32, 32, 3))
    x, y = jax.random.normal(jax.random.key(1), (4, 32, 32, 3)), jnp.arange(4)
    return net, params, x, y


@functools.cache
def gradient(precision="float32", beta=1e-4, method=None, bp=False, gain=2.0, **options):
    net, params, x, y = setting(precision, gain)
    f = (
        epjax.backprop_value_and_grad(net, CE)
        if bp
        else epjax.value_and_grad(net, CE, beta=beta, equilibration=method, **options)
    )
    return jax.jit(f)(params, x, y, jax.random.key(0))[1]


@pytest.mark.parametrize("method", [epjax.Sweep(1), epjax.Async(10)])
def test_recomputed_errors_drown_and_carried_ones_do_not(method):
    """VGG10's shape at the paper's gain, float32, one-sided, beta = 1e-4."""
    options = {"beta": 1e-4, "gain": 1.0, "scheme": "forward", "method": method}
    exact = gradient(bp=True, gain=1.0)
    first = [g[0] for g in (gradient(errors="carried", **options), gradient(errors="recomputed", **options))]
    carried, recomputed = (distance(g, exact[0]) for g in first)
    assert carried < 0.05
    assert recomputed > 0.5


def test_bfloat16_costs_ep_what_it_costs_backpropagation():
    """EP in bfloat16 is no further from EP in float32 than 1.5 times what backpropagation is from itself."""
    bp = distance(gradient("bfloat16", bp=True), gradient(bp=True))
    assert bp > 1e-4  # it does round
    for scheme in ("centered", "forward"):
        ep = distance(gradient("bfloat16", scheme=scheme), gradient(scheme=scheme))
        assert ep < 1.5 * bp, (ep, bp)


def test_gradients_stay_float32():
    for precision in ("float32", "tf32", "bfloat16"):
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient(precision)))


def test_tf32_keeps_ten_bits_of_the_operands():
    """The products of rounded operands, exact otherwise, forward and backward, on any backend."""
    rng = np.random.default_rng(0)
    w, h, g = (jnp.array(rng.normal(size=s), jnp.float32) for s in ((5, 4), (5,), (4,)))

    def rounded(v):
        step = 2.0 ** (np.floor(np.log2(np.abs(np.array(v, np.float64)))) - 10)
        return np.round(np.array(v, np.float64) / step) * step

    out, pull = jax.vjp(lambda w, h: at_precision("tf32", jnp.dot, h, w), w, h)
    np.testing.assert_allclose(out, rounded(h) @ rounded(w), rtol=1e-6)
    g_w, g_h = pull(g)
    np.testing.assert_allclose(g_h, rounded(rounded(w) @ rounded(g)), rtol=1e-6)
    np.testing.assert_allclose(g_w, rounded(np.outer(rounded(h), rounded(g))), rtol=1e-6)
    assert np.max(np.abs(np.array(out) - np.array(h) @ np.array(w))) > 1e-6


@pytest.mark.parametrize(("precision", "attribute"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_products_ask_the_backend_for_their_precision(precision, attribute):
    """Every convolution and dot of the EP program, whatever jax's default is: accelerators round by default."""
    net, params, x, y = setting(precision)
    text = jax.jit(epjax.value_and_grad(net, CE)).lower(params, x, y, None).as_text()
    products = [
        line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    big = [line for line in products if f"[{attribute}, {attribute}]" in line or attribute in line]
    others = [line for line in products if line not in big]
    assert len(big) >= 40  # four products a layer, those of the two phases in one
    assert not others, others[:3]
