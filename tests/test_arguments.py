"""What every entry refuses, and in which words. Oracles: `Network.init`, which refuses it too; flax and jax.grad.

Catches a module that mixes examples, draws numbers or keeps state and gets in by another door than init, another
library's words, a refusal of what could be computed, and statistics or weights that are other than the model's.
"""

import warnings
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import epjax
from epjax.network.activation import ACTIVATIONS, Activation
from epjax.network.drive import Dense

CE, SE = epjax.cost.cross_entropy, epjax.cost.squared_error
X, Y = jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6) % 3
NET = epjax.models.mlp([7, 3])
PARAMS = NET.init(jax.random.key(0), (5,))
ENTRIES = {
    "value_and_grad": lambda net, p, x, y: epjax.value_and_grad(net, CE)(p, x, y, None),
    "within jit": lambda net, p, x, y: jax.jit(epjax.value_and_grad(net, CE))(p, x, y, None),
    "backprop_value_and_grad": lambda net, p, x, y: epjax.backprop_value_and_grad(net, CE)(p, x, y, None),
    "ep_loss": lambda net, p, x, y: jax.grad(epjax.ep_loss(net, CE))(p, x, y),
    "ep_loss of bp": lambda net, p, x, y: epjax.ep_loss(net, CE, algorithm="bp")(p, x, y),
    "diagnose": lambda net, p, x, y: epjax.diagnose(net, p, x, y),
    "forward": lambda net, p, x, y: jax.vmap(partial(net.forward, p))(x),
}
every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


def tree_of(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return tuple(
        {"kernel": jax.random.normal(k, s) / 2, "bias": jnp.zeros(s[1:])} for k, s in zip(keys, shapes, strict=True)
    )


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        calls = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        calls.value += 1
        return nn.Dense(3)(x)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), x


class Labels(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.argmax(nn.Dense(3)(x), axis=-1, keepdims=True)


def norm_scale(n):
    return {"scale": jnp.ones(n), "bias": jnp.zeros(n)}


def nnx_params(module):
    return nnx.state(module, nnx.Param)


def second(module, theta, sentence):
    """A list whose second module is at fault, with parameters as if it were not."""
    return [nn.Dense(4), module], (*tree_of(0, (5, 4)), theta), sentence


RNGS = nnx.Rngs(0)
NORM, DROP = nnx.BatchNorm(4, rngs=RNGS), nnx.Dropout(0.5, rngs=RNGS)
DENSE = tree_of(1, (4, 3))[0]
FAULTS = {
    "linen BatchNorm": second(
        nn.BatchNorm(use_running_average=False), norm_scale(4), r"\(BatchNorm\) mixes the examples"
    ),
    "nnx BatchNorm": second(NORM, nnx_params(NORM), r"\(BatchNorm\) mixes the examples of a batch \(mean\)"),
    "linen Dropout": second(nn.Dropout(0.5, deterministic=False), {}, r"\(Dropout\) draws random numbers"),
    "Dropout inside": second(Noisy(), {"Dense_0": DENSE}, r"\(Noisy\) draws random numbers \(Dropout_0\)"),
    "nnx Dropout": second(DROP, nnx_params(DROP), r"\(Dropout\) draws random numbers \(rngs/count\)"),
    "a counter": second(Counting(), {"Dense_0": DENSE}, r"\(Counting\) keeps mutable state \(counts/calls\)"),
    "statistics left behind": second(
        nn.BatchNorm(use_running_average=True), norm_scale(4), r"\(BatchNorm\) needs batch_stats/mean, .*module\.bind\("
    ),
    "two outputs": second(Pair(), {"Dense_0": DENSE}, r"\(Pair\) gives a tuple, but must give one array"),
    "integers": second(Labels(), {"Dense_0": DENSE}, r"\(Labels\) gives int32, but its states are float32"),
    "another width": second(nn.Dense(3), tree_of(0, (5, 3))[0], r"kernel of shape \(4, 3\), got \(5, 3\)"),
    "another module": second(nn.Dense(3), {"scale": jnp.ones(4)}, r"bias of shape \(3,\), got none"),
    "a batch axis lost": second(lambda x: x.reshape(-1), {}, r"gives \(4,\) for a batch of one example"),
}


@every_entry
@pytest.mark.parametrize(("modules", "params", "sentence"), FAULTS.values(), ids=FAULTS)
def test_what_init_refuses_every_entry_refuses(entry, modules, params, sentence):
    net = epjax.from_flax(modules)
    with pytest.raises(ValueError, match=rf"layer [12] .*{sentence}"):
        entry(net, params[: len(net)], X, Y)
    if "got" not in sentence:
        with pytest.raises(ValueError, match=sentence):
            net.init(jax.random.key(0), (5,))


ARGUMENTS = {
    "images": (PARAMS, jnp.zeros((6, 5), jnp.uint8), Y, "x must be .* got uint8: normalise images to floats first"),
    "bfloat16": (PARAMS, X.astype(jnp.bfloat16), Y, "x must be .* got bfloat16: .* the network's precision"),
    "a list": (PARAMS, [[1.0] * 5], Y, "x must be an array of float32 or float64, got a list"),
    "too few layers": (PARAMS[:1], X, Y, "params must hold one entry for each of 2 layers, .* got 1 entries"),
    "a dictionary": ({"params": PARAMS}, X, Y, "params must hold one entry for each of 2 layers, .* got dict"),
    "no arrays": (({"kernel": "x"}, {}), X, Y, "params must hold arrays, .* got a str"),
    "integer weights": (
        jax.tree.map(lambda v: v.astype(jnp.int32), PARAMS), X, Y, "parameters of a floating dtype, got int32 for bias",
    ),
    "wider images": (PARAMS, jnp.ones((6, 4)), Y, r"layer 1 \(Dense\) .* kernel of shape \(4, 7\), got \(5, 7\)"),
}  # fmt: skip


@pytest.mark.parametrize("entry", ["value_and_grad", "backprop_value_and_grad", "ep_loss of bp", "diagnose"])
@pytest.mark.parametrize(("params", "x", "y", "sentence"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_bad_arguments_are_one_sentence(entry, params, x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        ENTRIES[entry](NET, params, x, y)


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (
            lambda: epjax.value_and_grad(list(NET.layers), CE),
            "net must be an epjax.Network or another system, got a list: epjax.Network",
        ),
        (lambda: epjax.backprop_value_and_grad(nn.Sequential([nn.Dense(3)]), CE), "got a Sequential: .*from_flax"),
        (lambda: epjax.Network([epjax.Layer(Dense(3)), nn.Dense(3)]), r"layers\[1\] must be a Layer, got Dense: "),
        (lambda: epjax.Network(epjax.Layer(Dense(3))), "layers must be a tuple of Layers, got Layer"),
        (lambda: epjax.Layer(Dense(3), jax.nn.relu6), "activation must be an Activation, or identity, .*, got relu6"),
        (lambda: epjax.Layer(Dense(3), "ReLU"), "activation must be .*, got 'ReLU'"),
        (lambda: epjax.Layer(Dense(3), None), "activation must be .*, got NoneType"),
        (lambda: epjax.Layer(Dense(3), skips=0), "skips must be numbers of earlier layers, .* got 0"),
        (lambda: epjax.from_flax(nn.Dense(3)), "modules must be a list of flax modules and functions, .* got Dense"),
        (lambda: epjax.from_flax([]), "modules must hold at least one module"),
        (lambda: NET.forward(PARAMS, X), r"x must be one example \[5\], got a batch \[6, 5\]: jax.vmap"),
        (lambda: epjax.value_and_grad(NET, CE)(PARAMS, X[:0], Y[:0], None), "x must be a batch .* of at least one"),
        (lambda: epjax.value_and_grad(NET, CE)(PARAMS, X, [0, 1], None), "y must be an array of labels, got a list"),
        (lambda: epjax.value_and_grad(NET, CE, beta=jnp.ones(4))(PARAMS, X, Y, None), r"beta must be one .*got \(4,\)"),
        (
            lambda: epjax.value_and_grad(NET, CE, scheme="random")(PARAMS, X, Y, jax.random.PRNGKey(0)),
            r"key must be made by jax.random.key, got uint32 \[2\]",
        ),
        (
            lambda: epjax.value_and_grad(NET, CE, scheme="random")(PARAMS, X, Y, jax.random.split(jax.random.key(0))),
            r"key must be one key or one for each of 6 examples, got \[2\]",
        ),
        (
            lambda: epjax.value_and_grad(epjax.from_flax([nn.Conv(3, (3, 3))]), CE)(
                ({"kernel": jnp.ones((3, 3, 1, 3)), "bias": jnp.zeros(3)},), jnp.ones((6, 4, 4, 1)), Y, None
            ),
            r"y must be class indices \[B, 4, 4\] or targets \[B, 4, 4, 3\], got int32 \[6\]",
        ),
    ],
)
def test_refusals_at_construction_and_call(use, sentence):
    with pytest.raises(ValueError, match=sentence):
        use()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_by_name_or_function_is_the_activation(name):
    functions = {"identity": jax.nn.identity, "tanh": jnp.tanh}
    for given in (
        name,
        functions.get(name, getattr(jax.nn, name, ACTIVATIONS[name].phi)),
        ACTIVATIONS[name].phi,
        ACTIVATIONS[name],
    ):
        assert epjax.Layer(Dense(3), given).activation is ACTIVATIONS[name]
    own = Activation("sine", jnp.sin)
    assert epjax.Layer(Dense(3), own).activation is own


def test_a_projected_output_under_cross_entropy_is_one_warning():
    net = epjax.Network([epjax.Layer(Dense(4)), epjax.Layer(Dense(3), "relu")])
    assert isinstance(net.layers, tuple)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        epjax.diagnose(net, net.init(jax.random.key(0), (5,)), X, Y)
        epjax.ep_loss(net, CE)
    (warning,) = told
    assert str(warning.message).startswith("the output layer has activation 'relu', which clips the logits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epjax.value_and_grad(epjax.Network([epjax.Layer(Dense(3), "relu")]), SE)


def close(grads, exact, tolerance):
    for g, e in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * float(jnp.abs(e).max() + 1e-30))


def mean_cost(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def to(dtype, tree):
    return jax.tree.map(lambda v: v.astype(dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree)


@pytest.fixture
def double(x64):
    """float64 and flax's usual promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("double")
def test_a_frozen_linen_batch_norm_and_dropout_are_supported():
    """Bound, the statistics are a part of the function: of a Sequential, and of a module in a list."""
    norm = nn.BatchNorm(use_running_average=True, param_dtype=jnp.float64)
    model = nn.Sequential([nn.Dense(4), norm, nn.tanh, nn.Dropout(0.5, deterministic=True), nn.Dense(3)])
    x = X.astype(jnp.float64)
    variables = to(jnp.float64, jax.jit(model.init)(jax.random.key(0), x))
    stats = {"layers_1": {"mean": jnp.linspace(-1, 1, 4), "var": jnp.linspace(0.5, 2, 4)}}
    variables |= {"batch_stats": stats}

    def bp(p):
        return mean_cost(model.apply(variables | {"params": p}, x), Y)

    exact = jax.jit(jax.grad(bp))(variables["params"])
    loss = epjax.ep_loss(model.bind(variables), CE, beta=1e-5)
    close(jax.jit(jax.grad(loss))(variables["params"], x, Y), exact, 1e-6)
    own = norm.bind({"params": variables["params"]["layers_1"], "batch_stats": stats["layers_1"]})
    net = epjax.from_flax([nn.Dense(4), own, nn.tanh, nn.Dense(3)])
    params = tuple(variables["params"][f"layers_{i}"] for i in (0, 1, 4))
    grads = jax.jit(epjax.value_and_grad(net, CE, beta=1e-5))(params, x, Y, None)[1]
    close(grads, [exact[f"layers_{i}"] for i in (0, 1, 4)], 1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("how", ["plain", "jit", "jit within"])
def test_an_nnx_model_brings_what_it_holds_now(how):
    """Statistics that changed after the loss was made are used; another mode is refused."""
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.tanh, nnx.Dropout(0.5, rngs=rngs),
        nnx.Linear(4, 3, rngs=rngs),
    )  # fmt: skip
    nnx.update(model, to(jnp.float64, nnx.state(model)))
    model.eval()
    loss = epjax.ep_loss(model, CE, beta=1e-5)
    model.layers[1].mean[...] = jnp.linspace(-1.0, 1.0, 4)
    x = X.astype(jnp.float64)
    asked = {"plain": nnx.grad(loss), "jit": nnx.jit(nnx.grad(loss)), "jit within": nnx.grad(nnx.jit(loss))}[how]
    exact = nnx.jit(nnx.grad(lambda model: mean_cost(model(x), Y)))(model)
    close(asked(model, x, Y), exact, 1e-6)
    model.train()
    with pytest.raises(ValueError, match=r"must be the nnx.Sequential that ep_loss was given, unchanged"):
        asked(model, x, Y)
    with pytest.raises(ValueError, match=r"layer 2 \(BatchNorm\) mixes the examples"):
        nnx.grad(epjax.ep_loss(model, CE))(model, x, Y)


def bfloat16_model(kind, dtype):
    if kind == "linen":
        return nn.Sequential([nn.Dense(32, dtype=dtype), nn.tanh, nn.Dense(3, dtype=dtype)])
    rngs = nnx.Rngs(0)
    linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
    return nnx.Sequential(linear(5, 32), nnx.tanh, linear(32, 3))


def linen_cost(model, x, params):
    return mean_cost(model.apply({"params": params}, x).astype(jnp.float32), Y)


def distance(a, b):
    """||a - b|| / ||b||."""
    one, other = (jnp.concatenate([v.ravel() for v in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_modules_that_compute_in_bfloat16(kind):
    """States and errors stay float32; the gradient is as far from jax.grad's as bfloat16's own error, not further."""
    x, low, high = X.astype(jnp.float32), *(bfloat16_model(kind, dtype) for dtype in (jnp.bfloat16, None))
    if kind == "linen":
        grad, params = lambda f: jax.jit(jax.grad(f)), jax.jit(high.init)(jax.random.key(0), x)["params"]
        at = dict.fromkeys(("low", "high"), params)
        models = {"low": partial(linen_cost, low, x), "high": partial(linen_cost, high, x)}
    else:
        nnx.update(low, nnx.state(high))
        grad, at = lambda f: nnx.jit(nnx.grad(f)), {"low": low, "high": high}
        models = dict.fromkeys(at, lambda model: mean_cost(model(x).astype(jnp.float32), Y))
    exact = {name: grad(f)(at[name]) for name, f in models.items()}
    found = grad(epjax.ep_loss(low, CE, beta=0.01))(at["low"], x, Y)
    net = epjax.from_flax(low)
    assert all(h.dtype == jnp.float32 for h in net.forward(net.init(jax.random.key(0), (5,)), x[0]))
    own = distance(exact["low"], exact["high"])
    assert 1e-4 < own < 2e-2
    assert distance(found, exact["high"]) < 2 * own
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:Casting complex:numpy.exceptions.ComplexWarning")
@pytest.mark.filterwarnings("ignore:.*discard the imaginary part")
def test_a_module_of_its_own_dtype_has_no_holomorphic_scheme():
    net = epjax.from_flax([nn.Dense(4, dtype=jnp.bfloat16), nn.Dense(3)])
    params = net.init(jax.random.key(0), (5,))
    with pytest.raises(ValueError, match=r"scheme='holomorphic': layer 1 .*refuses complex numbers: gives bfloat16"):
        epjax.value_and_grad(net, CE, scheme="holomorphic")(params, X, Y, None)


def test_a_model_is_looked_at_once():
    """Not again for the same shapes, and never by a compiled step."""
    looked = []

    class Watched(Dense):
        def __call__(self, h, *skips):
            looked.append(h.shape)
            return super().__call__(h, *skips)

    net = epjax.Network((epjax.Layer(Watched(3), "identity"),))
    params = net.init(jax.random.key(0), (5,))
    before = len(looked)
    for _ in range(3):
        net.check(params, X[0])
    assert len(looked) == before
    step = jax.jit(epjax.value_and_grad(net, CE))
    step(params, X, Y, None)
    before = len(looked)
    step(params, X + 1, Y, None)
    assert len(looked) == before


@pytest.mark.fast
def test_a_parameter_of_an_attribute_is_named():
    """Parameters of a drive of one's own may be a dataclass: each leaf has its name, not all the same."""

    @partial(jax.tree_util.register_dataclass, data_fields=["scale", "shift"], meta_fields=[])
    @dataclass
    class Affine:
        scale: jax.Array
        shift: jax.Array

    class Drive:
        name = "Affine"

        def init(self, key, *inputs):
            return Affine(jnp.ones(3), jnp.zeros(3))

        def apply(self, theta, *inputs):
            return theta.scale * inputs[0] + theta.shift

    net = epjax.Network((epjax.Layer(Drive(), "identity"),))
    (theta,) = net.init(jax.random.key(0), (3,))
    assert net.forward((theta,), jnp.ones(3))[-1].shape == (3,)
    with pytest.raises(ValueError, match=r"shift of shape \(3,\), got \(2,\)"):
        net.forward((Affine(theta.scale, jnp.zeros(2)),), jnp.ones(3))
