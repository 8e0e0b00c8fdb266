"""Oracles of the residual perceptron: `jax.grad` in float64, its equations written out, and the claim of muPC.

They would catch a scaling at the wrong layer, a stack that differs from its layers, and states that grow with depth.
"""

import jax
import jax.numpy as jnp
import pytest

import epjax
from epjax.models import residual_mlp

pytestmark = pytest.mark.fast
SCALINGS = ("standard", "mupc")


def setting(L=6, width=16, **options):
    """A network, its parameters, a batch [4, 12] of unit variance and its classes."""
    net = residual_mlp(width, L, 5, **options)
    x = jax.random.normal(jax.random.key(1), (4, 12))
    return net, net.init(jax.random.key(0), (12,)), x, jnp.arange(4)


def kernels(params):
    return [theta["kernel"] for theta in params]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_equations_as_they_stand(scaling):
    net, params, x, _ = setting(scaling=scaling)
    first, *hidden, last = kernels(params)
    a_1, a, a_L = (12**-0.5, (16 * 6) ** -0.5, 1 / 16) if scaling == "mupc" else (1.0, 1.0, 1.0)
    h = a_1 * x @ first
    for w in hidden:
        h = h + a * jax.nn.gelu(h) @ w
    expected = a_L * jax.nn.gelu(h) @ last
    outputs = jax.vmap(lambda x: net.forward(params, x)[-1])(x)
    assert jnp.allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("stacked", [False, True])
def test_one_sweep_is_the_gradient(scaling, stacked, x64):
    net, params, x, y = setting(scaling=scaling, stacked=stacked)
    params, x = jax.tree.map(lambda v: v.astype(jnp.float64), (params, x))
    estimate = epjax.value_and_grad(net, epjax.cost.cross_entropy, scheme="centered", beta=1e-5)
    _, grads = jax.jit(estimate)(params, x, y)
    _, true = jax.jit(epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy))(params, x, y)
    for found, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(true), strict=True):
        assert jnp.linalg.norm(found - expected) < 1e-8 * jnp.linalg.norm(expected)


@pytest.mark.parametrize(("scaling", "grows"), [("standard", True), ("mupc", False)])
def test_what_depth_does_to_the_states(scaling, grows):
    """Standard states grow by a factor every few layers, those of muPC by one factor at any depth."""
    sizes = []
    for L in (8, 64):
        net, params, x, _ = setting(L, 64, scaling=scaling)
        sizes.append(float(jnp.std(jax.vmap(lambda x, net=net, params=params: net.forward(params, x)[-2])(x))))
    assert (sizes[1] > 100 * sizes[0]) == grows
    assert grows or 0.5 < sizes[1] / sizes[0] < 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 1}, "depth must be at least 2, got 1"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"scaling": "ntk"}, "scaling must be one of standard, mupc, got 'ntk'"),
    ],
)
def test_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        residual_mlp(**{"width": 8, "depth": 3, "num_classes": 2, **options})
