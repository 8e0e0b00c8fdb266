"""Oracle: the paper's tables and NumPy. Shapes, parameter counts, initial ranges, skips, pooling, foreign flax modules.

Catches a wrong channel count, a pool in the wrong place, an initialisation by the wrong fan, a tie that is split.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import identity, tanh
from epjax.network.drive import Conv, Dense, conv3x3, max_pool


def count(params):
    return sum(v.size for v in jax.tree.leaves(params))


def shapes(net, image):
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), image))
    h = jax.eval_shape(net.forward, params, jax.ShapeDtypeStruct(image, jnp.float32))
    return params, [v.shape for v in h]


def test_vgg10():
    params, h = shapes(epjax.models.vgg10(), (224, 224, 3))
    assert h == [
        (112, 112, 64),
        (56, 56, 128),
        (56, 56, 256),
        (28, 28, 256),
        (28, 28, 512),
        (14, 14, 512),
        (14, 14, 512),
        (7, 7, 512),
        (2048,),
        (1000,),
    ]
    convs = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    dense = [(7 * 7 * 512, 2048), (2048, 1000)]
    assert count(params) == sum(9 * i * o + o for i, o in convs) + sum(i * o + o for i, o in dense) == 62_651_752


def test_vgg10_skip():
    plain, h = shapes(epjax.models.vgg10(), (224, 224, 3))
    skip, h_skip = shapes(epjax.models.vgg10_skip(), (224, 224, 3))
    assert h == h_skip
    assert count(skip) - count(plain) == 128 * 512 + 512 * 512
    assert [layer.skips for layer in epjax.models.vgg10_skip().layers] == [()] * 4 + [(2,), (), (), (5,), (), ()]


def test_vgg5():
    params, h = shapes(epjax.models.vgg5(100), (32, 32, 3))
    assert h == [(32, 32, 128), (16, 16, 256), (8, 8, 512), (4, 4, 512), (2, 2, 512), (100,)]
    convs = [(3, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    assert count(params) == sum(9 * i * o + o for i, o in convs) + 2048 * 100 + 100


def test_width_and_classes():
    _, h = shapes(epjax.models.vgg10(20, width=0.25), (64, 64, 3))
    assert h[0] == (32, 32, 16)
    assert h[7] == (2, 2, 128)
    assert h[8:] == [(2048,), (20,)]


def assert_uniform(w, c):
    """In [-c, c], and reaching close to both ends."""
    assert jnp.max(jnp.abs(w)) <= c
    assert jnp.max(w) > 0.99 * c
    assert jnp.min(w) < -0.99 * c
    np.testing.assert_allclose(jnp.std(w), c / np.sqrt(3), rtol=0.05)


def test_initial_weights_of_vgg10():
    """Convolutions by fan_out = 9 C_out, dense layers and nothing else by fan_in, biases zero."""
    net = epjax.models.vgg10(50, width=0.25, dense=128, gain=1.0)
    params = net.init(jax.random.key(0), (64, 64, 3))
    assert_uniform(params[1]["kernel"], np.sqrt(1 / (9 * 32)))
    assert_uniform(params[4]["kernel"], np.sqrt(1 / (9 * 128)))
    assert_uniform(params[8]["kernel"], np.sqrt(1 / (2 * 2 * 128)))
    assert_uniform(params[9]["kernel"], np.sqrt(1 / 128))
    assert all(not np.any(p["bias"]) for p in params)


def test_initial_weights_of_vgg5():
    """fan_in everywhere; the output layer's gain is its own."""
    net = epjax.models.vgg5(50, width=0.25, gain=2.0, output_gain=0.2)
    params = net.init(jax.random.key(0), (32, 32, 3))
    assert_uniform(params[1]["kernel"], 2 * np.sqrt(1 / (9 * 32)))
    assert_uniform(params[5]["kernel"], 0.2 * np.sqrt(1 / (2 * 2 * 128)))


def test_init_depends_on_the_key_alone():
    net = epjax.models.vgg5(width=0.05)
    one, same, other = (net.init(jax.random.key(s), (32, 32, 3)) for s in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one[0]["kernel"], other[0]["kernel"])
    with jax.enable_x64(True):
        wide = net.init(jax.random.key(0), (32, 32, 3))
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(wide))


def test_convolution_and_both_gradients_against_numpy():
    rng = np.random.default_rng(0)
    h, w, g = rng.normal(size=(5, 6, 3)), rng.normal(size=(3, 3, 3, 4)), rng.normal(size=(5, 6, 4))
    padded = np.pad(h, ((1, 1), (1, 1), (0, 0)))
    a, g_h, g_w = np.zeros((5, 6, 4)), np.zeros((7, 8, 3)), np.zeros_like(w)
    for i in range(5):
        for j in range(6):
            window = padded[i : i + 3, j : j + 3]
            a[i, j] = np.einsum("ijc,ijcd->d", window, w)
            g_h[i : i + 3, j : j + 3] += np.einsum("ijcd,d->ijc", w, g[i, j])
            g_w += np.einsum("ijc,d->ijcd", window, g[i, j])
    with jax.enable_x64(True):
        out, pull = jax.vjp(conv3x3, jnp.array(h), jnp.array(w))
        np.testing.assert_allclose(out, a, rtol=1e-12)
        got_h, got_w = pull(jnp.array(g))
        np.testing.assert_allclose(got_h, g_h[1:-1, 1:-1], rtol=1e-10)
        np.testing.assert_allclose(got_w, g_w, rtol=1e-10)


def test_max_pool_routes_a_tie_to_the_first_unit():
    a = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 9.0], [7.0, 7.0, 7.0]])[..., None]
    out, pull = jax.vjp(max_pool, a)
    assert out.shape == (1, 1, 1)  # an odd border is left out
    routed = np.zeros((3, 3, 1), np.float32)
    routed[0, 0] = 5.0
    np.testing.assert_array_equal(pull(jnp.full((1, 1, 1), 5.0))[0], routed)
    rng = np.random.default_rng(1)
    b = jnp.array(rng.normal(size=(6, 8, 3)), jnp.float32)
    np.testing.assert_array_equal(max_pool(b), np.array(b).reshape(3, 2, 4, 2, 3).max(axis=(1, 3)))


def test_skip_inputs_are_added_to_the_drive():
    """After the pool, by a strided 1x1 convolution."""
    h, s = jax.random.normal(jax.random.key(0), (4, 4, 2)), jax.random.normal(jax.random.key(1), (8, 8, 3))
    conv = Conv(5, pool=True)
    p = conv.init(jax.random.key(2), h, s)["params"]
    plain = Conv(5, pool=True).apply({"params": {k: p[k] for k in ("kernel", "bias")}}, h)
    expected = plain + np.einsum("ijc,cd->ijd", np.array(s)[::4, ::4], np.array(p["skip_kernel_1"][0, 0]))
    np.testing.assert_allclose(conv.apply({"params": p}, h, s), expected, atol=1e-5)


def test_any_flax_module_can_be_a_drive():
    """GroupNorm inside a convolution, a residual block: EP needs f_k and nothing else."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h):
            return h + nn.Conv(4, (3, 3))(nn.relu(nn.GroupNorm(2)(h)))

    class Head(nn.Module):
        @nn.compact
        def __call__(self, h):
            return nn.Dense(3)(h.mean(axis=(1, 2)))

    layers = (epjax.Layer(nn.Conv(4, (3, 3), strides=2), tanh), epjax.Layer(Block(), identity))
    net = epjax.Network((*layers, epjax.Layer(Head(), identity)))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (8, 8, 2)))
        x, y = jax.random.normal(jax.random.key(1), (2, 8, 8, 2), jnp.float64), jnp.array([0, 2])
        for method in (epjax.Sweep(1, update="pgd"), epjax.Async(3, update="pgd")):
            ep = epjax.value_and_grad(net, epjax.cost.cross_entropy, beta=1e-5, equilibration=method)
            (_, grads), (_, exact) = jax.jit(
                lambda ep=ep: (
                    ep(params, x, y, None),
                    epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy)(params, x, y, None),
                )
            )()
            for g, e in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
                np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-9)


class BatchNormDrive(nn.Module):
    @nn.compact
    def __call__(self, h):
        return nn.BatchNorm(use_running_average=False)(h)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: epjax.Network(()), "layers must hold at least one Layer, got none"),
        (lambda: epjax.Network((epjax.Layer(Dense(2), skips=(1,)),)), "skips of layer 1 must lie in 0..-1"),
        (lambda: epjax.models.mlp([3], precision="fp8"), "precision must be one of float32, tf32, bfloat16, got 'fp8'"),
        (lambda: epjax.models.vgg10(width=0), "width must be a positive multiplier, got 0"),
        (lambda: epjax.models.vgg5(0), "num_classes must be at least 1, got 0"),
        (lambda: epjax.models.mlp([]), "sizes must be positive layer sizes"),
        (
            lambda: epjax.models.vgg10(width=0.1).init(jax.random.key(0), (16, 16, 3)),
            r"input_shape \(16, 16, 3\) is too small: layer 8 gives shape",
        ),
        (
            lambda: epjax.Network((epjax.Layer(BatchNormDrive()),)).init(jax.random.key(0), (4,)),
            r"layer 1 \(BatchNormDrive\) mixes the examples of a batch \(batch_stats",
        ),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_summary_says_what_init_gives():
    net = epjax.models.vgg10(10, width=0.25, dense=64)
    params = net.init(jax.random.key(0), (32, 32, 3))
    lines = net.summary((32, 32, 3)).splitlines()
    assert len(lines) == 14
    for k, (line, theta) in enumerate(zip(lines[3:-1], params, strict=True), start=1):
        held = sum(v.size for v in jax.tree.leaves(theta))
        assert line.split()[0] == str(k)
        assert f" {held:,} " in line
    assert f" {sum(v.size for v in jax.tree.leaves(params)):,} " in lines[-1]
    with pytest.raises(ValueError, match="too small"):
        net.summary((4, 4, 3))


def test_a_network_is_written_in_a_line():
    net = epjax.models.vgg10_skip(10)
    assert len(repr(net)) < 200
    assert "10 layers, float32: Conv relu, " in repr(net)
    assert "Conv relu + 2" in repr(net)


@pytest.mark.parametrize("system", ["network", "Hopfield", "Resistive", "Oscillators"])
def test_init_takes_an_example_as_well_as_a_shape(system):
    """An array or a ShapeDtypeStruct of any floating dtype: the same parameters."""
    systems = epjax.systems
    net = {
        "network": lambda: epjax.models.mlp([4, 3]),
        "Hopfield": lambda: systems.Hopfield.dense((4, 3)),
        "Resistive": lambda: systems.Resistive((4, 3)),
        "Oscillators": lambda: systems.Oscillators((4, 3)),
    }[system]()
    example = jnp.full((6,), 0.5)
    shapes = ((6,), [6], example, jax.ShapeDtypeStruct((6,), jnp.float16))
    first, *others = (net.init(jax.random.key(0), shape) for shape in shapes)
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)
    assert net.summary(example) == net.summary((6,))


@pytest.mark.parametrize("shape", [(0,), (3, -1), (2.0,), 6, None, (True,)])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(ValueError, match="input_shape must be the shape of one input, such as"):
        epjax.models.mlp([4, 3]).init(jax.random.key(0), shape)


def test_an_example_of_indices_asks_for_an_embed():
    with pytest.raises(ValueError, match="input_shape must be an example of real numbers, got int32: indices need"):
        epjax.models.mlp([4, 3]).init(jax.random.key(0), jnp.arange(6))
    tokens = epjax.models.gpt(11, 4, features=8, depth=1, heads=2)
    with jax.numpy_dtype_promotion("standard"):
        assert tokens.init(jax.random.key(0), jnp.zeros(4, jnp.int32))
