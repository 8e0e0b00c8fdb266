"""One device against eight: the same training, to rounding, wherever the arrays live.

Would catch: gradients summed instead of averaged over devices, signs drawn per device instead of per
example, a rule that does not divide large parameters, a batch that is silently dropped or repeated.
"""

from functools import cache

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import epjax
from epjax import Layer, Network, sharding
from epjax.drive import Conv, Dense
from epjax.train import Normalise, initial_state, sgd, train_step

eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def test_mesh_axes():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "model": 1}
    with pytest.raises(ValueError, match="model_parallel must divide the number of devices, 1, but is 3"):
        sharding.make_mesh(3, devices=jax.devices()[:1])


@eight
def test_one_rule_divides_large_parameters_and_copies_small_ones():
    mesh = sharding.make_mesh(2)
    assert sharding.parameter_sharding(mesh, (256, 512)).spec == P(None, "model")
    assert sharding.parameter_sharding(mesh, (513, 512)).spec == P(None, "model")
    assert sharding.parameter_sharding(mesh, (3, 3, 64, 63)).spec == P(None, None, "model", None)
    assert sharding.parameter_sharding(mesh, (512,)).spec == P()
    assert sharding.parameter_sharding(mesh, (513, 511)).spec == P()
    assert sharding.parameter_sharding(sharding.make_mesh(1), (256, 512)).spec == P()


@eight
def test_parameters_are_born_divided():
    mesh = sharding.make_mesh(4)

    def make(key):
        return {"w": jax.random.normal(key, (64, 512))}

    made = sharding.born_sharded(make, mesh)(jax.random.key(0))
    assert {shard.data.shape for shard in made["w"].addressable_shards} == {(64, 128)}
    np.testing.assert_array_equal(made["w"], jax.random.normal(jax.random.key(0), (64, 512)))


@eight
def test_batch_is_divided_over_all_devices():
    mesh = sharding.make_mesh(2)
    image = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    placed = sharding.put_batch(mesh)({"image": image})["image"]
    np.testing.assert_array_equal(placed, image)
    assert len({shard.index[0].start for shard in placed.addressable_shards}) == 8
    with pytest.raises(ValueError, match="batch_size must be a multiple of the number of devices, 8, but is 12"):
        sharding.check_batch_size(12, mesh)


def network(activation):
    """Two convolutions and a dense layer, for 16x16 images."""
    convs = [Layer(Conv(8, pool=True, gain=2.0), activation), Layer(Conv(16, pool=True, gain=2.0), activation)]
    return Network((*convs, Layer(Dense(10), epjax.activation.identity)))


@cache
def initial_params(net):
    return jax.device_get(net.init(jax.random.key(0), (16, 16, 3)))


def trained(mesh, gradient, net, steps=5):
    """The parameters and metrics after a few steps on the mesh."""
    optimiser = sgd(0.05, weight_decay=1e-3)
    state = initial_state(initial_params(net), optimiser)
    state = jax.device_put(state, sharding.state_shardings(mesh, state))
    step = train_step(gradient, optimiser, Normalise((0.5,) * 3, (0.25,) * 3), seed=1)
    put = sharding.put_batch(mesh)
    random, metrics = np.random.default_rng(0), []
    for _ in range(steps):
        image = random.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
        label = random.integers(0, 10, 16).astype(np.int32)
        state, measured = step(state, put({"image": image, "label": label}))
        metrics.append([float(measured[name]) for name in ("cost", "top1_error", "top5_error")])
    return jax.device_get(state.params), metrics


def gradients():
    """Schemes and traversals on smooth layers, where no kink amplifies rounding, and the usual one on ReLU."""
    smooth, relu = network(epjax.activation.tanh), network(epjax.activation.relu)
    cost = epjax.cost.cross_entropy
    yield "bp", smooth, epjax.backprop_value_and_grad(smooth, cost)
    for scheme in ("centered", "forward", "backward", "random"):
        way = epjax.Sweep(2, update="pgd")
        yield f"{scheme}-sweep", smooth, epjax.value_and_grad(smooth, cost, scheme=scheme, equilibration=way)
    way = epjax.Async(4, update="pgd", tolerance=1e-3)
    yield "centered-async", smooth, epjax.value_and_grad(smooth, cost, equilibration=way)
    yield "centered-relu", relu, epjax.value_and_grad(relu, cost)


@eight
@pytest.mark.parametrize(("net", "gradient"), [pytest.param(net, g, id=name) for name, net, g in gradients()])
def test_one_device_equals_eight(net, gradient):
    one, metrics = trained(sharding.make_mesh(devices=jax.devices()[:1]), gradient, net)
    many, many_metrics = trained(sharding.make_mesh(4), gradient, net)
    np.testing.assert_allclose(many_metrics, metrics, rtol=2e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * float(np.max(np.abs(a))))
