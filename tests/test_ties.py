"""Tied weights. Oracle: float64 jax.grad of the flax model that ties them, and its forward pass.

Catches a shared module that becomes two, a gradient of one place alone, a place that an optimiser moves away from the
other, two layers alike that are tied though they are not one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import epjax
from epjax.network.drive import Dense
from epjax.systems.pcn.energy import energy

CE = epjax.cost.cross_entropy
Y = jnp.arange(6) % 3


@pytest.fixture
def x(x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield jax.random.normal(jax.random.key(1), (6, 5), jnp.float64)


def mean_cost(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def wide(tree):
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def close(grads, exact):
    for g, e in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(g, e, rtol=0, atol=1e-6 * float(jnp.abs(e).max()))


def linen_case(x):
    """Dense twice: (the list, its model's params as one entry a layer, flax's gradient alike)."""
    dense, out = nn.Dense(5), nn.Dense(3)
    modules = [dense, nn.tanh, dense, nn.silu, out]
    model = nn.Sequential(modules)
    params = wide(jax.jit(model.init)(jax.random.key(0), x)["params"])
    exact = jax.jit(jax.grad(lambda p: mean_cost(model.apply({"params": p}, x))))(params)
    assert params.keys() == {"layers_0", "layers_4"}
    return model, params, exact, lambda p: (p["layers_0"], {}, p["layers_4"])


def nnx_case(x):
    """A whole module twice, and a kernel alone in a third: a bias of its own."""
    rngs = nnx.Rngs(0)
    one, other, out = nnx.Linear(5, 5, rngs=rngs), nnx.Linear(5, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
    other.kernel = one.kernel
    model = nnx.Sequential(one, nnx.tanh, one, nnx.tanh, other, nnx.tanh, out)
    nnx.update(model, wide(nnx.state(model)))
    exact = nnx.jit(nnx.grad(lambda m: mean_cost(m(x))))(model)
    assert len(jax.tree.leaves(exact)) == 5

    def by_layer(state):
        layers = state["layers"]
        return (layers[0], nnx.State({}), nnx.State({"bias": layers[4]["bias"]}), layers[6])

    return model, nnx.state(model, nnx.Param), exact, by_layer


@pytest.mark.parametrize("case", [linen_case, nnx_case])
@pytest.mark.parametrize("options", [{}, {"equilibration": epjax.Async(5, update="pgd")}, {"scheme": "holomorphic"}])
def test_the_gradient_is_the_sum_over_the_places(case, options, x):
    """One copy of the parameters; forward pass, value, gradient for parameters and input are flax's."""
    model, params, exact, by_layer = case(x)
    net = epjax.from_flax(model)
    own = jax.eval_shape(lambda: net.init(jax.random.key(0), (5,)))
    theta = by_layer(params)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, theta)
    options = {"beta": 1e-4, **options}
    (value, aux), grads = jax.jit(epjax.value_and_grad(net, CE, **options))(theta, x, Y, None)
    close(grads, by_layer(exact))
    bp = jax.jit(epjax.backprop_value_and_grad(net, CE))(theta, x, Y, None)
    close(bp[1], by_layer(exact))
    expected = model(x) if isinstance(model, nnx.Module) else model.apply({"params": params}, x)
    np.testing.assert_allclose(aux.output, expected, rtol=1e-10)
    np.testing.assert_allclose(value, bp[0][0], rtol=1e-10)
    assert float(energy(net, theta, x[0], net.forward(theta, x[0]))) < 1e-20


@pytest.mark.parametrize("case", [linen_case, nnx_case])
def test_the_loss_of_a_tied_model(case, x):
    model, params, exact, _ = case(x)
    loss = epjax.ep_loss(model, CE, beta=1e-4)
    if isinstance(model, nnx.Module):
        close(nnx.jit(nnx.grad(loss))(model, x, Y), exact)
    else:
        close(jax.jit(jax.grad(loss))(params, x, Y), exact)


def test_a_tied_network_is_diagnosed_and_trained(x):
    """The later place has no gradient of its own, and stays tied after a step of an optimiser."""
    model, params, _, by_layer = linen_case(x)
    net, theta = epjax.from_flax(model), by_layer(params)
    report = epjax.diagnose(net, theta, x, Y, beta=1e-3)
    assert report.verdict == "good"
    assert [layer.cosine is None for layer in report.layers] == [False, True, False]
    grads = jax.jit(epjax.value_and_grad(net, CE))(theta, x, Y, None)[1]
    theta = jax.tree.map(lambda p, g: p - 0.1 * g, theta, grads)
    after = {"layers_0": theta[0], "layers_4": theta[2]}
    output = jax.vmap(lambda x: net.forward(theta, x)[-1])(x)
    np.testing.assert_allclose(output, model.apply({"params": after}, x), rtol=1e-10)


def test_layers_alike_are_not_tied():
    """The library's drives describe layers; another instance of a flax module is another module."""
    alike = epjax.Network((epjax.Layer(Dense(4)),) * 3)
    others = epjax.from_flax([nn.Dense(4), nn.Dense(4)])
    dense = nn.Dense(4)
    one = epjax.from_flax([dense, dense])
    assert alike.ties == others.ties == ()
    assert [(tie.layer, tie.first) for tie in one.ties] == [(2, 1)]
    assert one != others
    params = alike.init(jax.random.key(0), (4,))
    assert not np.array_equal(params[0]["kernel"], params[1]["kernel"])


class Block(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_of_two_modules_is_refused_by_both_places(whole):
    norm = nn.LayerNorm()
    with pytest.raises(ValueError, match=r"layers 2 and 3 share a part \(LayerNorm\) of their modules"):
        epjax.from_flax([nn.Dense(4), Block(norm), norm if whole else Block(norm)])


def test_a_tied_module_that_does_not_fit_is_refused_by_name():
    dense = nn.Dense(4)
    with pytest.raises(ValueError, match=r"layer 2 \(Dense\) refuses \(4,\) of layer 1"):
        epjax.from_flax([dense, dense]).init(jax.random.key(0), (5,))
