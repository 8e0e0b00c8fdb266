"""Any JAX function as a network. Oracles: float64 `jax.grad` of the function, the network by hand, XLA's cost analysis.

Catches a state that is cut at another place than its mark, a skip or a shared parameter that is lost, a kink that is
handled otherwise than in `Layer(activation="relu")`, work that is done twice, a program of one dtype run in another, a
model that is no function of one example and gets in.
"""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import epjax
from epjax import Layer, Network, activation, state
from epjax.recipes.hopfield import EXPERIMENT
from epjax.runs.opening import opening

CE = epjax.cost.cross_entropy
Y = jnp.array([0, 1, 2, 1])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def in_float64(tree):
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def close(grads, exact, tolerance=1e-6):
    assert jax.tree.structure(grads) == jax.tree.structure(exact)
    for g, e in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * max(float(jnp.abs(e).max()), 1e-3))


def mean_cost(f, params, x, y):
    """Of a function of one example."""
    return jnp.mean(jax.vmap(CE)(jax.vmap(partial(f, params))(x), y))


def check_gradient(f, params, x, y, tolerance=1e-6, **options):
    """The gradient of ep_loss and of value_and_grad beside jax.grad of the function itself; gives the network."""
    net = epjax.from_function(f, params, x[0])
    exact = jax.jit(jax.grad(partial(mean_cost, f)))(params, x, y)
    options = {"beta": 1e-4, **options}
    value, grads = jax.jit(jax.value_and_grad(epjax.ep_loss(net, CE, **options)))(params, x, y)
    close(grads, exact, tolerance)
    np.testing.assert_allclose(value, mean_cost(f, params, x, y), rtol=1e-12)
    close(jax.jit(epjax.backprop_value_and_grad(net, CE))(params, x, y, None)[1], exact, 1e-12)
    return net


def flops(net, params, x, y):
    step = jax.jit(epjax.value_and_grad(net, CE))
    return step.lower(params, x, y, None).compile().cost_analysis()["flops"]


# The state itself


@pytest.mark.fast
def test_a_state_is_the_identity():
    """Evaluated, compiled, mapped, differentiated both ways, under jax.checkpoint."""
    v = jnp.linspace(-1, 2, 6, dtype=jnp.float32).reshape(2, 3)
    for use in (state, jax.jit(state), jax.vmap(state), jax.checkpoint(state), partial(state, name="block")):
        np.testing.assert_array_equal(use(v), v)
        np.testing.assert_array_equal(jax.grad(lambda v, use=use: jnp.sum(use(v) ** 2))(v), 2 * v)
        np.testing.assert_array_equal(jax.jvp(use, (v,), (v + 1,))[1], v + 1)
    assert jax.vmap(state)(v).dtype == v.dtype
    with pytest.raises(ValueError, match=r"h must be one array of floating numbers, got an array of int32"):
        state(jnp.arange(3))
    with pytest.raises(ValueError, match=r"h must be one array of floating numbers, got a tuple: mark each"):
        state((v, v))


# The network written by hand


@pytest.mark.fast
def test_a_function_is_the_network_written_by_hand():
    """Two dense layers: the same layers, the same gradient to the bit, the parameters the function's own."""

    def f(params, x):
        h = state(jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"]), "hidden")
        return h @ params["out"]["kernel"] + params["out"]["bias"]

    hand = epjax.models.mlp([4, 3], gain=1.7)
    theta = hand.init(jax.random.key(0), (5,))
    params = {"hidden": theta[0], "out": theta[1], "of no layer": jnp.ones(2)}
    x = jax.random.normal(jax.random.key(1), (4, 5), jnp.float32)
    net = epjax.from_function(f, params, x[0])
    assert repr(net) == "Network of 2 layers, float32: hidden relu, f identity"
    (cost, aux), grads = jax.jit(epjax.value_and_grad(net, CE))(params, x, Y, None)
    (expected, by_hand), exact = jax.jit(epjax.value_and_grad(hand, CE))(theta, x, Y, None)
    jax.tree.map(np.testing.assert_array_equal, (grads["hidden"], grads["out"]), exact)
    np.testing.assert_array_equal(aux.output, by_hand.output)
    np.testing.assert_array_equal(grads["of no layer"], 0)
    assert cost == expected
    assert net.init(jax.random.key(3), (5,)) is params


class CNN(nn.Module):
    """flax's MNIST example, of fewer features."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(features=4, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.Conv(features=6, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=16)(x)
        x = nn.relu(x)
        return nn.Dense(features=10)(x)


def pool(x):
    return nn.avg_pool(x, (2, 2), (2, 2))


LISTED = [nn.Conv(4, (3, 3)), nn.relu, pool, nn.Conv(6, (3, 3)), nn.relu, pool, lambda x: x.reshape((len(x), -1))]
LISTED += [nn.Dense(16), nn.relu, nn.Dense(10)]


def cnn_case():
    x = normal(1, 4, 8, 8, 1)
    return x, in_float64(jax.jit(CNN().init)(jax.random.key(0), x)["params"])


def test_a_compact_class_is_its_list_of_modules(wide):
    """To the bit, in as many operations; its gradient is jax.grad's of the class."""
    x, params = cnn_case()
    net, hand = epjax.from_flax(CNN(), x[0]), epjax.from_flax(LISTED)
    assert repr(net) == "Network of 4 layers, float32: Conv_0 relu, Conv_1 relu, Dense_0 relu, Dense_1 identity"
    theta = tuple(params[name] for name in ("Conv_0", "Conv_1", "Dense_0", "Dense_1"))
    grads = jax.jit(epjax.value_and_grad(net, CE, beta=1e-4))(params, x, Y, None)[1]
    by_hand = jax.jit(epjax.value_and_grad(hand, CE, beta=1e-4))(theta, x, Y, None)[1]
    close(tuple(grads.values()), by_hand, 1e-12)
    assert flops(net, params, x, Y) == pytest.approx(flops(hand, theta, x, Y), rel=0.02)
    model = lambda p: optax.softmax_cross_entropy_with_integer_labels(CNN().apply({"params": p}, x), Y).mean()  # noqa: E731
    close(grads, jax.jit(jax.grad(model))(params))
    drawn = jax.eval_shape(lambda: net.init(jax.random.key(0), (8, 8, 1)))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)


class Skipping(nn.Module):
    """A CNN with marks of its own, a skip from below and one from the input."""

    @nn.compact
    def __call__(self, x):
        h = below = state(nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2)), "below")
        h = state(nn.tanh(nn.Conv(4, (3, 3))(h)), "middle")
        h = state(nn.relu(nn.Conv(4, (3, 3))(h) + below), "above")
        return nn.Dense(3)(jnp.concatenate([v.reshape((len(v), -1)) for v in (h, x)], axis=1))


def test_the_marks_of_a_flax_model_come_before_those_of_its_modules(wide):
    x = normal(1, 4, 6, 6, 2)
    params = in_float64(jax.jit(Skipping().init)(jax.random.key(0), x)["params"])

    def f(params, x):
        return Skipping().apply({"params": params}, x[None])[0]

    net = check_gradient(f, params, x, Y)
    assert [net.sources(k) for k in range(1, 5)] == [(0,), (1,), (2, 1), (3, 0)]
    assert [layer.activation.name for layer in net.layers] == ["relu", "identity", "relu", "identity"]
    assert repr(epjax.from_flax(Skipping(), x[0])) == repr(net).replace("f identity", "Skipping identity")


class Residual(nnx.Module):
    """An nnx class: a norm, a module used twice, a residual connection, a list."""

    def __init__(self, rngs):
        self.first = nnx.Linear(12, 5, rngs=rngs)
        self.norm = nnx.LayerNorm(5, rngs=rngs)
        self.twice = nnx.Linear(5, 5, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(5, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])

    def __call__(self, x):
        h = nnx.relu(self.norm(self.first(x.reshape((x.shape[0], -1)))))
        h = h + nnx.tanh(self.twice(nnx.tanh(self.twice(h))))
        return self.rest[1](nnx.relu(self.rest[0](h)))


def test_an_nnx_class_is_taken_as_it_is(wide):
    """Under nnx.grad the model is the parameters, as before."""
    model, x = Residual(nnx.Rngs(0)), normal(1, 4, 3, 4)
    nnx.update(model, in_float64(nnx.state(model)))
    net = epjax.from_flax(model, x[0])
    assert [layer.activation.name for layer in net.layers] == [
        "identity",
        "relu",
        *["identity"] * 2,
        "relu",
        "identity",
    ]
    assert net.layers[2].function.name == net.layers[3].function.name == "twice"
    cost = optax.softmax_cross_entropy_with_integer_labels
    exact = nnx.jit(nnx.grad(lambda model, x, y: cost(model(x), y).mean()))(model, x, Y)
    close(nnx.jit(nnx.grad(epjax.ep_loss(net, CE, beta=1e-4)))(model, x, Y), exact)
    params = net.init(jax.random.key(0), (3, 4))
    close(jax.jit(epjax.value_and_grad(net, CE, beta=1e-4))(params, x, Y, None)[1], nnx.state(exact))


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["relu"])
class Line:
    """A layer that is its parameters, as in Equinox."""

    def __init__(self, weight, bias, relu):
        self.weight, self.bias, self.relu = weight, bias, relu

    def __call__(self, x):
        a = self.weight @ x + self.bias
        return state(jax.nn.relu(a)) if self.relu else a


def test_a_class_that_is_a_pytree(wide):
    model = [Line(normal(k, n, m), normal(k + 9, n), n > 3) for k, (m, n) in enumerate([(5, 6), (6, 4), (4, 3)])]

    def f(model, x):
        for layer in model:
            x = layer(x)
        return x

    net = check_gradient(f, model, normal(1, 4, 5), Y)
    assert [layer.activation for layer in net.layers] == [activation.relu, activation.relu, activation.identity]


def test_an_equinox_model(wide):
    eqx = pytest.importorskip("equinox")

    class MLP(eqx.Module):
        layers: list
        step: callable = eqx.field(static=True)

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = state(self.step(layer(x)))
            return self.layers[-1](x)

    keys = jax.random.split(jax.random.key(0), 3)
    sizes = [(5, 6), (6, 4), (4, 3)]
    model = MLP([eqx.nn.Linear(*s, key=key) for s, key in zip(sizes, keys, strict=True)], jax.nn.relu)
    net = check_gradient(lambda model, x: model(x), in_float64(model), normal(1, 4, 5), Y)
    assert len(net) == 3
    usual = eqx.nn.MLP(5, 3, 6, 2, key=keys[0])  # its functions are leaves, its layers have no marks
    params, rest = eqx.partition(in_arrays(usual, eqx), eqx.is_inexact_array)
    check_gradient(lambda params, x: eqx.combine(params, rest)(x), params, normal(1, 4, 5), Y)
    with pytest.raises(
        ValueError, match=r"params must be a pytree of floating arrays, .*, got a .* at params.activation"
    ):
        epjax.from_function(lambda model, x: model(x), usual, normal(1, 5))


def in_arrays(model, eqx):
    return jax.tree.map(lambda v: v.astype(jnp.float64) if eqx.is_inexact_array(v) else v, model)


def norm(v):
    return (v - v.mean(-1, keepdims=True)) * lax.rsqrt(v.var(-1, keepdims=True) + 1e-5)


def attend(p, h):
    q, k, v = (norm(h) @ p[name] for name in "qkv")
    weights = jnp.where(jnp.tri(len(h), dtype=bool), q @ k.T / k.shape[-1] ** 0.5, -1e9)
    return jax.nn.softmax(weights) @ v @ p["o"]


def feed(p, h):
    return jax.nn.gelu(norm(h) @ p["up"]) @ p["down"]


def transformer(params, tokens):
    """A causal language model whose output matrix is its embedding's: plain functions and dictionaries."""
    h = state(params["embedding"][tokens] + params["places"], "embedding")
    for p in params["blocks"]:
        h = state(h + attend(p, h), "attention")
        h = state(h + feed(p, h), "mlp")
    return norm(h) @ params["embedding"].T


SHAPES = {"q": (6, 6), "k": (6, 6), "v": (6, 6), "o": (6, 6), "up": (6, 8), "down": (8, 6)}


def transformer_case(blocks=2):
    blocks = [{n: 0.4 * normal(9 * i + j, *s) for j, (n, s) in enumerate(SHAPES.items())} for i in range(blocks)]
    params = {"embedding": normal(3, 7, 6), "places": normal(4, 5, 6), "blocks": blocks}
    tokens = jax.random.randint(jax.random.key(5), (4, 6), 0, 7, jnp.int32)
    return params, tokens[:, :-1], tokens[:, 1:]


def test_a_transformer_with_tied_embeddings(wide):
    """Tokens in, a class for each position out; the embedding learns from both of its places."""
    params, x, y = transformer_case()
    net = check_gradient(transformer, params, x, y)
    assert len(net) == 6
    assert net.layers[1].function.name == "attention"
    apart = jax.grad(lambda p: mean_cost(lambda q, x: transformer(q | {"embedding": params["embedding"]}, x), p, x, y))
    assert not jnp.any(apart(params)["embedding"])
    table = net.summary((5,))
    assert "embedding" in table
    assert f"{sum(v.size for v in jax.tree.leaves(params)):,}" in table.splitlines()[-1]


class Apply:
    """A drive by hand: a function of its parameters and its inputs."""

    def __init__(self, apply):
        self.apply, self.name = apply, "by hand"

    def init(self, key, *inputs):
        return self.theta


def test_a_transformer_costs_what_it_costs_by_hand(wide):
    """The same drives in a Network; the embedding apart, for a Network's own drives share nothing."""
    params, x, y = transformer_case()
    drives = [lambda p, x: p["embedding"][x.astype(jnp.int32)] + p["places"]]
    drives += [lambda p, h: h + attend(p, h), lambda p, h: h + feed(p, h)] * 2
    drives += [lambda p, h: norm(h) @ p["embedding"].T]
    attention, mlp = [{n: p[n] for n in "qkvo"} for p in params["blocks"]], [dict(p) for p in params["blocks"]]
    for p in mlp:
        for n in "qkvo":
            del p[n]
    first, last = {n: params[n] for n in ("embedding", "places")}, {"embedding": params["embedding"]}
    theta = (first, attention[0], mlp[0], attention[1], mlp[1], last)
    layers = []
    for drive, p in zip(map(Apply, drives), theta, strict=True):
        drive.theta = p
        layers.append(Layer(drive, activation.identity))
    hand, net = Network(tuple(layers)), epjax.from_function(transformer, params, x[0])
    ours, theirs = flops(net, params, x, y), flops(hand, theta, x.astype(jnp.float64), y)
    assert ours == pytest.approx(theirs, rel=0.02)


class Attention(nn.Module):
    """flax's own attention, whose queries, keys and values are layers beside each other; a scan over blocks."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4)(x)
        h = h + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(h))
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        return nn.Dense(3)(blocks()(h.mean(1), None)[0])


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.tanh(nn.Dense(4)(x)), None


def test_a_model_of_flax_s_own_parts(wide):
    x = normal(1, 4, 3, 5)
    params = in_float64(jax.jit(Attention().init)(jax.random.key(0), x)["params"])
    net = epjax.from_flax(Attention(), x[0])
    parts = [net.layers[k].function.name.rpartition("/")[2] for k in range(len(net))]
    assert parts == [
        "Dense_0",
        "LayerNorm_0",
        "query",
        "key",
        "value",
        "out",
        "Dense_0",
        "ScanBlock_0",
        "Dense_0 + ScanBlock_0",
        "Dense_1",
    ]
    assert [net.sources(k) for k in (3, 4, 5, 6)] == [(2,), (2,), (2,), (5, 3, 4)]
    assert isinstance(net.layers[8], epjax.Repeat)  # the first of four blocks takes a mean, and stands by itself
    assert net.layers[8].n == 3

    def exact(p):
        return optax.softmax_cross_entropy_with_integer_labels(Attention().apply({"params": p}, x), Y).mean()

    close(jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-4)))(params, x, Y), jax.jit(jax.grad(exact))(params))


# The cut


def weights(*shapes):
    return {name: normal(i, *shape) for i, (name, shape) in enumerate(zip("abcdef", shapes, strict=False))}


def test_skips_shared_parameters_and_what_crosses_a_mark(wide):
    """u crosses mark 1 without being one: layers 1 and 2 both compute it, and share its weight."""
    params = weights((5, 4), (4, 4), (4, 3))

    def f(p, x):
        u = x @ p["a"]
        h = state(jnp.tanh(u))
        g = state(jnp.tanh(h @ p["b"]) + u * h[0])
        return jnp.tanh(g @ p["b"] + h) @ p["c"]

    net = check_gradient(f, params, normal(7, 4, 5), Y)
    assert [net.sources(k) for k in (1, 2, 3)] == [(0,), (1, 0), (2, 1)]
    assert [tuple(map(jnp.shape, theta)) for theta in net.by_layer(params)] == [((5, 4),), ((4, 4),), ((4, 3),)]
    check_gradient(f, params, normal(7, 4, 5), Y, scheme="holomorphic", points=2, beta=1e-3)


def test_branches_that_do_not_feed_each_other(wide):
    """Layer 2 reads the input and not layer 1; a layer of parameters alone reads nothing."""
    params = weights((5, 4), (5, 4), (4,), (4, 3))

    def f(p, x):
        one, other = state(jax.nn.relu(x @ p["a"])), state(jnp.tanh(x @ p["b"]))
        shift = state(2 * p["c"])
        return (one + other + shift) @ p["d"]

    net = check_gradient(f, params, normal(7, 4, 5), Y)
    assert [net.sources(k) for k in (1, 2, 3, 4)] == [(0,), (0,), (0,), (3, 1, 2)]


def test_marks_that_say_nothing_new(wide):
    """None at all, one at the output, two at one place, one where nothing goes on, one before a reshape at the end."""
    params, x = weights((5, 4), (4, 3)), normal(7, 4, 5)

    def hidden(p, x):
        return jax.nn.relu(x @ p["a"])

    cases = {
        1: lambda p, x: hidden(p, x) @ p["b"],
        2: lambda p, x: state(state(state(hidden(p, x)), "again") @ p["b"]),
        3: lambda p, x: state(jnp.tanh(state(hidden(p, x))) @ p["b"] + 0 * state(x)[0]).reshape(3, 1)[:, 0],
    }
    for L, f in cases.items():
        assert len(check_gradient(f, params, x, Y)) == L

    def dead(p, x):
        state(x @ p["a"] + 1)
        return hidden(p, x) @ p["b"]

    assert len(check_gradient(dead, params, x, Y)) == 1


PROJECTIONS = {
    "relu": (jax.nn.relu, activation.relu.name, (0.0, np.inf)),
    "maximum": (lambda a: jnp.maximum(a, 0), "relu", (0.0, np.inf)),
    "relu6": (jax.nn.relu6, "relu6", (0.0, 6.0)),
    "clip": (lambda a: jnp.clip(a, -0.1, 0.7), "clip(-0.1, 0.7)", (-0.1, 0.7)),
    "clamp": (lambda a: lax.clamp(0.0, a, 0.7), "clip(0, 0.7)", (0.0, 0.7)),
    "hard_tanh": (jax.nn.hard_tanh, "hard_tanh", (-1.0, 1.0)),
    "two": (lambda a: jnp.minimum(jax.nn.relu(a), 0.7), "clip(0, 0.7)", (0.0, 0.7)),
    "reshaped": (lambda a: jax.nn.relu(a.reshape(2, 2)).T, "relu", (0.0, np.inf)),
    "compiled": (jax.jit(lambda a: jax.nn.relu(a)), "relu", (0.0, np.inf)),
    "maximum of pairs": (lambda a: jax.nn.relu(a.reshape(2, 2)).max(axis=0), "relu", (0.0, np.inf)),
    "max-pool": (
        lambda a: nn.max_pool(jax.nn.relu(a[None, :, None]), (2,), (2,), "SAME")[0, :, 0],
        "relu",
        (0.0, np.inf),
    ),
    "average": (lambda a: jax.nn.relu(a.reshape(2, 2)).mean(axis=0), "identity", (-np.inf, np.inf)),
    "leaky": (jax.nn.leaky_relu, "identity", (-np.inf, np.inf)),
    "of two arrays": (lambda a: jnp.maximum(a, -a), "identity", (-np.inf, np.inf)),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_clip_before_a_mark_is_the_projection(name, wide):
    """Values, and the gradient for every input, are the function's; bounds are those of Layer(activation=...)."""
    phi, called, bounds = PROJECTIONS[name]
    params = {"a": normal(0, 5, 4), "b": normal(1, np.prod(jax.eval_shape(phi, jnp.zeros(4)).shape), 3)}
    net = check_gradient(lambda p, x: state(phi(x @ p["a"])).ravel() @ p["b"], params, normal(7, 4, 5), Y)
    assert net.layers[0].activation.name == called
    assert net.layers[0].activation.bounds == bounds
    if name != "clamp":  # its numbers are float64
        single = jax.tree.map(jnp.float32, params)
        for precision in ("float32", "bfloat16"):
            other = replace(net, precision=precision)
            assert other.check(single, jnp.zeros(5, jnp.float32)).dtype == jnp.float32


def test_a_straight_through_clip_is_none(wide):
    """A function with a derivative of its own is left alone."""

    @jax.custom_jvp
    def through(a):
        return jnp.maximum(a, 0)

    through.defjvp(lambda primals, tangents: (through(*primals), tangents[0]))
    net = check_gradient(lambda p, x: state(through(x @ p["a"])) @ p["b"], weights((5, 4), (4, 3)), normal(7, 4, 5), Y)
    assert net.layers[0].activation is activation.identity


def test_marks_in_calls_and_scans(wide):
    """jax.jit and jax.checkpoint are written out, a scan over blocks is unrolled: all the loop in Python."""
    params = {"w": 0.6 * normal(0, 3, 4, 4), "out": normal(1, 4, 3)}
    x = normal(7, 4, 4)

    def block(h, w):
        return state(jnp.tanh(w @ h) + h), jnp.sum(h)

    def loop(p, x, block=block, order=(0, 1, 2)):
        for i in order:
            x, _ = block(x, p["w"][i])
        return x @ p["out"]

    def scanned(p, x, **options):
        h, sums = lax.scan(block, x, p["w"], **options)
        return h @ p["out"] + 0 * sums[0]

    alike = [loop, partial(loop, block=jax.jit(block)), jax.checkpoint(loop), jax.jit(loop), scanned]
    grads = []
    for f in alike:
        net = check_gradient(f, params, x, Y)
        assert len(net) == 4
        grads.append(jax.jit(epjax.value_and_grad(net, CE, beta=0.1))(params, x, Y, None)[1])
    for g in grads[1:]:
        close(g, grads[0], 1e-12)
    back, order = partial(scanned, reverse=True), partial(loop, order=(2, 1, 0))
    np.testing.assert_allclose(
        *(epjax.from_function(f, params, x[0]).forward(params, x[0])[-1] for f in (back, order)), rtol=1e-12
    )


# Numbers


def test_one_function_in_every_dtype(x64):
    """Traced in float32, used in float64; products in tf32 and bfloat16 keep states in float32 and tokens whole."""
    params, x, y = transformer_case(blocks=1)
    single = jax.tree.map(lambda v: v.astype(jnp.float32), params)
    net = epjax.from_function(transformer, single, x[0] + 300)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exact = jax.jit(jax.grad(partial(mean_cost, transformer)))(params, x, y)
        close(jax.jit(epjax.value_and_grad(net, CE, beta=1e-4))(params, x, y, None)[1], exact)
        for precision in ("float32", "tf32", "bfloat16"):
            low = epjax.from_function(transformer, single, x[0], precision=precision)
            (_, aux), grads = jax.jit(epjax.value_and_grad(low, CE, beta=0.01))(single, x, y, None)
            assert aux.output.dtype == jnp.float32
            assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
            close(grads, jax.tree.map(jnp.float32, exact), 0.3)
        wide_table = {"embedding": jnp.arange(2000.0, dtype=jnp.float32).reshape(1000, 2)}
        found = epjax.from_function(lambda p, x: p["embedding"][x], wide_table, x[0], precision="bfloat16")
        np.testing.assert_array_equal(found.forward(wide_table, jnp.array([771, 999, 0, 1, 2]))[0][0], [1544, 1544])


def test_a_model_that_computes_in_bfloat16():
    """Its marks are bfloat16 inside; states, errors and gradients are float32."""

    def f(p, x):
        h = state(jax.nn.relu(x.astype(jnp.bfloat16) @ p["a"].astype(jnp.bfloat16)))
        return (h @ p["b"].astype(jnp.bfloat16)).astype(jnp.float32)

    params = jax.tree.map(jnp.float32, {"a": np.eye(3), "b": np.ones((3, 3))})
    x = jnp.ones((4, 3), jnp.float32)
    net = epjax.from_function(f, params, x[0])
    assert {h.dtype for h in net.forward(params, x[0])} == {jnp.dtype("float32")}
    grads = jax.grad(epjax.ep_loss(net, CE))(params, x, Y)
    close(grads, jax.grad(partial(mean_cost, f))(params, x, Y), 0.05)


def test_every_way_of_asking(wide):
    """Async, one phase after the other, a diagnosis, predictive coding's own, the input's gradient, made inside jit."""
    params, x = weights((5, 6), (6, 4), (4, 3)), normal(7, 4, 5)

    def f(p, x):
        h = state(jax.nn.relu(x @ p["a"]))
        return state(jax.nn.relu(h @ p["b"])) @ p["c"]

    check_gradient(f, params, x, Y, equilibration=epjax.Async(3))
    check_gradient(f, params, x, Y, phases="sequential", scheme="forward", beta=1e-7)
    net = epjax.from_function(f, params, x[0])
    report = epjax.diagnose(net, params, x, Y)
    assert report.verdict == "good"
    assert len(report.layers) == 3
    optimised = epjax.pc.error_optimisation_value_and_grad(net, CE, steps=2)(params, x, Y, None)[1]
    assert jax.tree.structure(optimised) == jax.tree.structure(params)
    of_x = jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-4), argnums=1))(params, x, Y)
    close(of_x, jax.grad(partial(mean_cost, f), argnums=1)(params, x, Y))
    inside = jax.jit(lambda p, x: jax.grad(epjax.ep_loss(epjax.from_function(f, p, x[0]), CE, beta=1e-4))(p, x, Y))
    close(inside(params, x), jax.grad(partial(mean_cost, f))(params, x, Y))
    scaled = jnp.linspace(0.5, 1.5, 5)  # closed over, and traced where the network is made
    closed = jax.jit(
        lambda s: jax.grad(epjax.ep_loss(epjax.from_function(lambda p, x: f(p, s * x), params, x[0]), CE))(params, x, Y)
    )
    close(closed(scaled), jax.grad(partial(mean_cost, lambda p, x: f(p, scaled * x)))(params, x, Y))


# What is refused


def plain(p, x):
    return state(jnp.tanh(x @ p["a"])) @ p["b"]


def looped(p, x):
    return lax.while_loop(lambda h: h.sum() < 0, lambda h: state(h + 1), x @ p["a"]) @ p["b"]


def branched(p, x):
    return lax.cond(x[0] > 0, lambda h: state(jnp.tanh(h)), lambda h: h, x @ p["a"]) @ p["b"]


@jax.custom_jvp
def own(h):
    return state(jnp.tanh(h))


own.defjvp(lambda primals, tangents: (own(*primals), tangents[0]))


def printed(p, x):
    jax.debug.print("{}", x[0])
    return plain(p, x)


REFUSED = {
    r"f \(looped\) marks a state inside a while loop, but must mark it outside": looped,
    r"f \(branched\) marks a state inside a branch \(cond or switch\), but must mark it outside": branched,
    r"marks a state inside a jax.custom_jvp function, .*, for its own derivative": lambda p, x: (
        own(x @ p["a"]) @ p["b"]
    ),
    r"draws random numbers \(random_\w+\)": lambda p, x: plain(p, x * jax.random.bernoulli(jax.random.key(0))),
    r"f \(printed\) has effects \(DebugEffect\), which each phase would repeat": printed,
    r"gives a tuple, but must give one array": lambda p, x: (plain(p, x), x),
    r"gives int32, but must give floating numbers": lambda p, x: jnp.argmax(plain(p, x)).astype(jnp.int32),
    r"gives a number that depends on neither params nor x": lambda p, x: 1.0,
    r"f \(<lambda>\) refuses one example x, float32 \[5\] without a batch axis: 'z'": lambda p, x: x @ p["z"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_network_is_refused(message):
    params = {"a": jnp.ones((5, 4)), "b": jnp.ones((4, 3))}
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=message):
        epjax.from_function(REFUSED[message], params, jnp.zeros(5))


def test_bad_input_is_one_sentence():
    params, x = {"a": jnp.ones((5, 4)), "b": jnp.ones((4, 3))}, jnp.ones((4, 5))
    with pytest.raises(ValueError, match=r"f must be a function of parameters and one example, got 7"):
        epjax.from_function(7, params, x[0])
    with pytest.raises(ValueError, match=r"params must be a pytree of floating arrays, .*, got int32 at params\['n'\]"):
        epjax.from_function(plain, params | {"n": jnp.arange(3)}, x[0])
    with pytest.raises(ValueError, match=r"x must be an array of float32 or float64, got a str"):
        epjax.from_function(plain, params, "x")
    with pytest.raises(ValueError, match=r"precision must be one of"):
        epjax.from_function(plain, params, x[0], precision="float8")
    net = epjax.from_function(plain, params, x[0])
    with pytest.raises(ValueError, match=r"one example of x must be of the shape .* traced with, \[5\], got \[6\]"):
        epjax.ep_loss(net, CE)(params, jnp.ones((4, 6)), Y)
    with pytest.raises(ValueError, match=r"x must be one example \[5\], got a batch \[4, 5\]"):
        net.forward(params, x)
    with pytest.raises(ValueError, match=r"params must be of the structure .* traced with, .*, got"):
        epjax.ep_loss(net, CE)({"a": params["a"]}, x, Y)
    with pytest.raises(ValueError, match=r"params\['a'\] must be of the shape .* traced with, \[5, 4\], got \[5, 5\]"):
        epjax.ep_loss(net, CE)(params | {"a": jnp.ones((5, 5))}, x, Y)
    with pytest.raises(ValueError, match=r"x must be an array of float32 or float64, got int32"):
        epjax.ep_loss(net, CE)(params, x.astype(jnp.int32), Y)
    tokens = epjax.from_function(lambda p, x: p["a"][x[0]] @ p["b"], params, jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match=r"x must hold indices up to 16777216 in float32, got 20000000"):
        epjax.ep_loss(tokens, CE)(params, jnp.full((4, 2), 20_000_000), Y)
    with pytest.raises(ValueError, match=r"argnums must be 0 .* where x holds indices \(int32\), got 1"):
        epjax.value_and_grad(tokens, CE, argnums=1)(params, jnp.zeros((4, 2), jnp.int32), Y, None)
    with pytest.raises(ValueError, match=r"net of a Hopfield network must be made of Layers, got a function"):
        epjax.systems.Hopfield(net)
    with pytest.raises(ValueError, match=r"modules must be a flax module where x is given, got list"):
        epjax.from_flax([nn.Dense(3)], x[0])
    with pytest.raises(ValueError, match=r"got CNN; epjax.from_flax\(model, x\) takes another model"):
        epjax.from_flax(CNN())
    with pytest.raises(ValueError, match=r"model \(CNN\) refuses one example x, float32 \[5\] without a batch axis: "):
        epjax.from_flax(CNN(), x[0])


class Regularised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x))
        return nn.Dense(3)(x)


class Normalised(nn.Module):
    frozen: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=self.frozen)(nn.Dense(4)(x))))


class Remembering(nnx.Module):
    def __init__(self):
        self.mean = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.mean[...] = jnp.mean(x)
        return x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Regularised(), r"model \(Regularised\) draws random numbers"),
        (Normalised(), r"model \(Normalised\) mixes the examples of a batch \(batch_stats/"),
        (Normalised(True), r"model \(Normalised\) needs batch_stats/"),
        (Remembering(), r"model \(Remembering\) keeps mutable state \(mean\)"),
        (nnx.BatchNorm(5, rngs=nnx.Rngs(0)), r"model \(BatchNorm\) mixes the examples"),
        (nnx.Dropout(0.5, rngs=nnx.Rngs(0)), r"model \(Dropout\) draws random numbers"),
    ],
)
def test_a_model_that_is_no_function_of_one_example_is_refused(model, reason):
    with pytest.raises(ValueError, match=reason):
        epjax.from_flax(model, jnp.ones(5))


def test_a_bound_model_brings_its_statistics(wide):
    """A BatchNorm with frozen statistics is a layer like another."""
    model, x = Normalised(True), normal(1, 4, 5)
    variables = in_float64(model.init(jax.random.key(0), x))
    variables["batch_stats"] = jax.tree.map(lambda v: v + 0.3, variables["batch_stats"])
    net = epjax.from_flax(model.bind(variables), x[0])
    assert repr(net).endswith("Dense_1 identity, BatchNorm_0 relu, Dense_0 identity")

    def exact(p):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(variables | {"params": p}, x), Y).mean()

    params = variables["params"]
    close(jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-4)))(params, x, Y), jax.grad(exact)(params))


@pytest.mark.fast
def test_the_screen_counts_layers_not_the_entries_of_a_pytree():
    """Before step 1: of a function with three layers whose parameters are a dictionary of four arrays."""

    def f(params, x):
        h = epjax.state(jnp.tanh(x.ravel() @ params["a"] + params["b"]))
        h = epjax.state(jnp.tanh(h @ params["c"]))
        return h @ params["d"]

    with jax.enable_x64(False):
        sizes = {"a": (28 * 28 * 3, 4), "b": (4,), "c": (4, 4), "d": (4, 10)}
        params = {name: jnp.zeros(size) for name, size in sizes.items()}
        net = epjax.from_function(f, params, jnp.zeros((28, 28, 3)))
        config = EXPERIMENT.parse(["--workdir", "unused", "--data", "demo"])
        task = replace(EXPERIMENT.make_task(config), network=net, title="Mine")
        (model, *_) = opening(config, EXPERIMENT.choose(config), task, 10)
    assert model == f"model    Mine: 3 layers, {28 * 28 * 3 * 4 + 4 + 16 + 40:,} parameters"
