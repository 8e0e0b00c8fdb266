"""Oracle: a plain vector-Jacobian product, and phases that share nothing. Errors pulled to the inside of a block once.

Catches a parameter that hears nothing or hears twice, a pull that misses what stands above it, a mean of the wrong
states, an order in beta that is lost, layers that share where they must not, a sum that every reader computes again.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import identity, relu, tanh
from epjax.network.apart import computed_once
from epjax.network.drive import Conv, Dense
from epjax.network.inside import meetings, opened, told

CE = epjax.cost.cross_entropy
pytestmark = pytest.mark.usefixtures("wide")


class Residual(nn.Module):
    """Two convolutions with norms and a skip."""

    phi: object = jnp.tanh

    @nn.compact
    def __call__(self, h):
        y = self.phi(nn.GroupNorm(2)(nn.Conv(h.shape[-1], (3, 3))(h)))
        return h + nn.GroupNorm(2)(nn.Conv(h.shape[-1], (3, 3))(y))


class Attention(nn.Module):
    """Norm, attention, a skip: products of states with states."""

    @nn.compact
    def __call__(self, h):
        y = h.reshape(h.shape[0], 4, -1)
        return h + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(y)).reshape(h.shape)


class Tied(nn.Module):
    """One kernel, standardised, on both ways."""

    @nn.compact
    def __call__(self, h):
        w = self.param("w", nn.initializers.normal(0.5), (h.shape[-1], 5))
        w = w / jnp.linalg.norm(w, axis=0)
        return h + jnp.sin(jnp.tanh(h @ w) @ w.T) * self.param("s", nn.initializers.ones, (h.shape[-1],))


MODULES = {"residual": (Residual(), (6, 6, 4)), "attention": (Attention(), (24,)), "tied": (Tied(), (7,))}


def drive(module, shape):
    """(f(theta, h), theta, h) of one example, in float64."""
    net = epjax.Network((epjax.Layer(module, identity), epjax.Layer(Dense(3), identity)))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), shape))
    return lambda theta, h: net.drive(theta, 1, h), params[0], jax.random.normal(jax.random.key(1), shape, jnp.float64)


def same(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, two)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_pass_down_leaves_gives_every_parameter_its_gradient(name):
    """And the signal to the state is that of the layer as it is."""
    f, theta, h = drive(*MODULES[name])
    eps = jax.random.normal(jax.random.key(2), f(theta, h).shape, jnp.float64)
    shifts = tuple(jnp.zeros(v.shape, v.dtype) for v in meetings(f, theta, h))
    value, pull = jax.vjp(lambda h, *shifts: opened(f, theta, (h,), shifts), h, *shifts)
    signal, *forces = pull(eps)
    plain, both = jax.vjp(f, theta, h)
    same((value, signal), (plain, both(eps)[1]))
    same(jax.grad(lambda theta: told(f, tuple(forces), lambda u: u, theta, h))(theta), both(eps)[0])


def test_a_layer_of_one_product_has_no_inside():
    for module, shape in ((Dense(4), (5,)), (Conv(4, pool=True), (8, 8, 2)), (nn.Conv(4, (3, 3)), (8, 8, 2))):
        f, theta, h = drive(module, shape)
        assert meetings(f, theta, h) == ()


def block_net(phi=jnp.tanh, activation=tanh):
    """A convolution, two blocks, a dense output."""
    blocks = [epjax.Layer(Residual(phi), identity) for _ in range(2)]
    net = epjax.Network((epjax.Layer(Conv(4, gain=2.0), activation), *blocks, epjax.Layer(Dense(4), identity)))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (6, 6, 2)))
    return net, params, jax.random.normal(jax.random.key(1), (3, 6, 6, 2), jnp.float64), jnp.arange(3)


def gradient(problem, pulls, beta=0.05, products=None, **options):
    net, params, x, y = problem
    sweep = epjax.Sweep(1, update="pgd", products=products, pulls=pulls)
    return jax.jit(epjax.value_and_grad(net, CE, beta=beta, equilibration=sweep, **options))(params, x, y, None)[1]


def distance(one, two):
    a, b = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (one, two))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(("options", "order"), [({"scheme": "forward"}, 1), ({}, 2), ({"points": 2}, 4)], ids=str)
def test_pulls_are_right_to_the_order_of_the_scheme(options, order):
    """Shared and own differ by O(beta) in one phase, O(beta^2N) in 2N, and the shared ones come to jax.grad."""
    problem = net, params, x, y = block_net()
    exact = epjax.backprop_value_and_grad(net, CE)(params, x, y)[1]
    betas = (0.2, 0.1)
    shared, own = ([gradient(problem, pulls, b, **options) for b in betas] for pulls in ("shared", "own"))
    apart = [distance(a, b) for a, b in zip(shared, own, strict=True)]
    off = [distance(a, exact) for a in shared]
    for found in (apart, off):
        assert abs(np.log2(found[0] / found[1]) - order) < 0.3, found
    assert off[1] < 1.2 * distance(own[1], exact)


def test_pulls_are_the_gradients_own_where_nothing_is_bent():
    """Blocks that are affine: whatever the state, the pull is the same."""

    class Affine(nn.Module):
        @nn.compact
        def __call__(self, h):
            return h + nn.Dense(6)(nn.Dense(5)(h))

    layers = (Dense(6), Affine(), Affine(), Dense(4))
    net = epjax.Network(tuple(epjax.Layer(layer, identity) for layer in layers))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (5,)))
    problem = net, params, jax.random.normal(jax.random.key(1), (3, 5), jnp.float64), jnp.arange(3)
    shared, own = (gradient(problem, pulls, 0.5, products="own") for pulls in ("shared", "own"))
    same(shared, own)
    same(gradient(problem, "shared", 0.5, scheme="forward"), gradient(problem, "own", 0.5, scheme="forward"))


@pytest.mark.parametrize("options", [{"scheme": "forward"}, {}, {"products": "own"}], ids=str)
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-6), ("tf32", 1e-6), ("bfloat16", 2e-3)])
def test_pulls_of_rounded_products_are_weighed_in_the_dtype_of_the_states(precision, near, options):
    """float32 states, strict promotion: what a product of bfloat16 hears is rounded once, as by pulls of its own."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, h):
            return h + nn.Dense(16)(jnp.tanh(nn.Dense(16)(h)))

    layers = [epjax.Layer(Dense(16), identity), *[epjax.Layer(Block(), identity)] * 2, epjax.Layer(Dense(4), identity)]
    net = epjax.Network(tuple(layers), precision)
    params = net.init(jax.random.key(0), (5,))
    problem = net, params, jax.random.normal(jax.random.key(1), (8, 5), jnp.float32), jnp.arange(8) % 4
    with jax.numpy_dtype_promotion("strict"):
        shared, own = (gradient(problem, pulls, 1e-5, **options) for pulls in ("shared", "own"))
    assert {v.dtype for v in jax.tree.leaves(shared)} == {jnp.dtype("float32")}
    a, b = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (shared, own))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 1 - near


class Beside(nn.Module):
    """A block that reads the input beside the layer below."""

    @nn.compact
    def __call__(self, h, x):
        return h + nn.Conv(h.shape[-1], (3, 3))(jnp.tanh(nn.Conv(4, (3, 3))(jnp.concatenate([h, x], -1))))


def test_the_input_hears_the_same():
    """Also from a block that reads it: that one is not opened, for its pulls do not reach the input."""
    net, _, x, y = block_net()
    net = epjax.Network((*net.layers[:2], epjax.Layer(Beside(), identity, skips=(0,)), *net.layers[2:]))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (6, 6, 2)))
    problem = net, params, x, y
    same(gradient(problem, "shared", argnums=1), gradient(problem, "own", argnums=1))
    assert distance(gradient(problem, "shared", argnums=1), jnp.zeros_like(x) + 1e-9) > 1


@pytest.mark.parametrize("options", [{"phases": "sequential"}, {"errors": "recomputed"}], ids=str)
def test_nothing_is_pulled_once_where_it_was_not_asked_for(options):
    """Phases in sequence and errors that are measured: the same program as without sharing."""
    problem = block_net(nn.relu, relu)
    usual, own = (gradient(problem, pulls, 0.3, **options) for pulls in (None, "own"))
    jax.tree.map(np.testing.assert_array_equal, usual, own)
    assert distance(gradient(problem, None, 0.3), gradient(problem, "own", 0.3)) > 1e-4


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: epjax.Sweep(1, pulls="once"), "pulls must be None, 'shared' or 'own', got 'once'"),
        (
            lambda: epjax.Sweep(2, pulls="shared"),
            "pulls must be 'own' with more than one sweep, got 'shared' with sweeps=2",
        ),
        (
            lambda: gradient(block_net(), "shared", phases="sequential"),
            "pulls must be 'own' unless phases of real strength run together, got 'shared'",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("theta", [{"w": jnp.ones(3)}, {}], ids=["parameters", "none"])
def test_what_is_computed_once_is_itself(theta):
    """Under every transformation that a phase is under, and of parameters that are mapped."""
    v = jnp.arange(6.0).reshape(2, 3)
    same(jax.jit(computed_once)(v, theta), v)
    same(jax.vmap(computed_once, (0, None))(v, theta), v)
    mapped = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), theta)
    same(jax.jit(jax.vmap(computed_once))(v, mapped), v)
    same(jax.jvp(lambda v: computed_once(v, theta), (v,), (v,))[1], v)


def test_sums_of_blocks_are_not_computed_again_by_all_that_read_them():
    """Additions in XLA's program grow as the depth does, where copies of the sums would grow as its square."""

    def additions(blocks):
        layers = [epjax.Layer(Dense(8), identity)]
        layers += [epjax.Layer(Wide(), identity) for _ in range(blocks)]
        net = epjax.Network((*layers, epjax.Layer(Dense(4), identity)))
        params = net.init(jax.random.key(0), (8,))
        x, y = jnp.ones((2, 8), jnp.float32), jnp.zeros(2, int)
        ep = jax.jit(epjax.value_and_grad(net, CE)).lower(params, x, y, None).compile()
        return ep.as_text().count(" add(")

    class Wide(nn.Module):
        @nn.compact
        def __call__(self, h):
            return h + nn.Dense(8)(nn.relu(nn.Dense(8)(h)))

    if jax.default_backend() != "cpu":
        pytest.skip("XLA for CPU alone copies them")
    assert additions(12) < 2.3 * additions(6)


@pytest.mark.fast
def test_a_network_alone_is_opened():
    """Other systems keep what they are, and their layers closed."""
    net, params, x, _ = block_net()
    network = epjax.systems.as_system(net)
    hopfield = epjax.systems.Hopfield(epjax.models.mlp([5, 4]))
    assert epjax.systems.opened(network).opened
    assert not network.opened
    assert epjax.systems.opened(hopfield) is hopfield
    same(epjax.systems.opened(network).free(params, x[0]).output, network.free(params, x[0]).output)
