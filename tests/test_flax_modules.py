"""Flax models as networks. Oracles: flax's own forward pass on a batch, and `jax.grad` of the network.

Catches a module that sees another batch than flax gives it, parameters that are drawn anew where a model holds them, a
batch-mixing or random module that is let in, blocks whose errors a sweep loses.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import epjax
from epjax.models.resnet import GroupNorm, resnet
from epjax.models.vit import vit

X = np.asarray(jax.random.normal(jax.random.key(1), (4, 8, 8, 3)), np.float32)
Y = jnp.array([0, 1, 2, 1])


def flatten(x):
    return x.reshape((x.shape[0], -1))


def output(net, params):
    return jax.vmap(lambda x: net.forward(params, x)[-1])(jnp.asarray(X))


def test_linen_list_is_the_sequential_model():
    modules = [nn.Conv(4, (3, 3)), nn.GroupNorm(2), nn.relu, lambda x: nn.max_pool(x, (2, 2), (2, 2)), flatten]
    modules += [nn.Dense(16), jax.nn.tanh, nn.Dense(3)]
    net = epjax.from_flax(modules)
    params = net.init(jax.random.key(0), (8, 8, 3))
    assert [len(jax.tree.leaves(p)) for p in params] == [2, 2, 2, 2]
    model = nn.Sequential(modules)
    places = [i for i, m in enumerate(modules) if isinstance(m, nn.Module)]
    variables = {"params": {f"layers_{i}": p for i, p in zip(places, params, strict=True)}}
    np.testing.assert_allclose(output(net, params), model.apply(variables, jnp.asarray(X)), rtol=1e-5, atol=1e-6)


def test_nnx_list_is_the_model_with_the_parameters_that_it_holds():
    rngs = nnx.Rngs(0)
    modules = [nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.relu, nnx.LayerNorm(4, rngs=rngs), flatten]
    modules += [nnx.Linear(256, 3, rngs=rngs)]
    net = epjax.from_flax(modules)
    params = net.init(jax.random.key(5), (8, 8, 3))
    np.testing.assert_allclose(output(net, params), nnx.Sequential(*modules)(jnp.asarray(X)), rtol=1e-5, atol=1e-6)


class Regularised(nn.Module):
    """A block with a dropout inside."""

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x))


class Counting(nn.Module):
    """Remembers how often it was called."""

    @nn.compact
    def __call__(self, x):
        calls = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        calls.value += 1
        return nn.Dense(4)(x)


class Remembering(nnx.Module):
    """Keeps the last mean that it saw."""

    def __init__(self):
        self.mean = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.mean[...] = jnp.mean(x)
        return x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Counting(), r"layer 2 \(Counting\) keeps mutable state \(counts/calls\)"),
        (Remembering(), r"layer 2 \(Remembering\) keeps mutable state \(mean\)"),
        (nn.BatchNorm(use_running_average=False), "layer 2 .* mixes the examples"),
        (Regularised(), "layer 2 .* draws random numbers"),
        (nnx.BatchNorm(4, rngs=nnx.Rngs(0)), "layer 2 .* mixes the examples"),
        (nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "layer 2 .* draws random numbers"),
        (nnx.Linear(5, 3, rngs=nnx.Rngs(0)), r"layer 2 \(Linear\) refuses \(8, 8, 4\) of layer 1"),
    ],
)
def test_what_is_no_function_of_one_example_is_refused(module, reason):
    net = epjax.from_flax([nn.Conv(4, (3, 3)), module])
    with pytest.raises(ValueError, match=reason):
        net.init(jax.random.key(0), (8, 8, 3))


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"modules\[1\] must be a flax module or a function"):
        epjax.from_flax([nn.Dense(3), 7])


def test_the_group_norm_of_the_residual_networks_is_flax_s():
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 4, 4, 12))
    params = {"scale": jnp.linspace(0.5, 2.0, 12), "bias": jnp.linspace(-1.0, 1.0, 12)}
    ours, theirs = (norm(3).apply({"params": params}, x) for norm in (GroupNorm, nn.GroupNorm))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def cosine(a, b):
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


NETWORKS = {
    "basic": resnet((1, 1), 3, width=1 / 16, small_images=True),
    "bottleneck": resnet((1,), 3, width=1 / 16, small_images=True, bottleneck=True),
    "vit": vit(3, patch=4, features=8, depth=1, heads=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_sweep_through_blocks_is_near_backpropagation(name):
    """Whole gradient >= 0.9999, worst layer >= 0.999 at beta 0.001, float32."""
    net = NETWORKS[name]
    params = net.init(jax.random.key(0), (8, 8, 3))
    ep = epjax.value_and_grad(net, epjax.cost.cross_entropy, beta=0.001, equilibration=epjax.Sweep(1, update="pgd"))
    bp = epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy)
    one, other = (jax.jit(f)(params, jnp.asarray(X), Y, None)[1] for f in (ep, bp))
    layers = [
        tuple(np.concatenate([np.asarray(v, np.float64).ravel() for v in jax.tree.leaves(g)]) for g in pair)
        for pair in zip(one, other, strict=True)
    ]
    assert cosine(*(np.concatenate(side) for side in zip(*layers, strict=True))) >= 0.9999
    assert min(cosine(a, b) for a, b in layers) >= 0.999
