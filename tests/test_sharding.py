"""One device against eight: the same training, to rounding, wherever the arrays live.

Would catch: gradients summed instead of averaged over devices, signs drawn per device instead of per
example, a rule that does not divide large parameters, a batch that is silently dropped or repeated.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import epjax
from epjax import sharding
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


def trained(mesh, algorithm, **options):
    """The parameters and costs of a narrow VGG5 after four steps on the mesh."""
    net = epjax.models.vgg5(num_classes=10, width=1 / 16, gain=2.0)
    cost = epjax.cost.cross_entropy
    if algorithm == "bp":
        gradient = epjax.backprop_value_and_grad(net, cost)
    else:
        gradient = epjax.value_and_grad(net, cost, beta=0.01, **options)
    optimiser = sgd(0.05, weight_decay=1e-3)

    def make(key):
        return initial_state(net.init(key, (32, 32, 3)), optimiser)

    state = sharding.born_sharded(make, mesh)(jax.random.key(0))
    step = train_step(gradient, optimiser, Normalise((0.5,) * 3, (0.25,) * 3), seed=1)
    put = sharding.put_batch(mesh)
    random, costs = np.random.default_rng(0), []
    for _ in range(4):
        image = random.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
        label = random.integers(0, 10, 16).astype(np.int32)
        state, metrics = step(state, put({"image": image, "label": label}))
        costs.append(float(metrics["cost"]))
    return jax.device_get(state.params), costs


@eight
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("bp", {}),
        ("ep", {"scheme": "centered"}),
        ("ep", {"scheme": "random"}),
        ("ep", {"scheme": "forward", "equilibration": epjax.Async(6)}),
    ],
    ids=["bp", "centered-sweep", "random-sweep", "forward-async"],
)
def test_one_device_equals_eight(algorithm, options):
    one, costs = trained(sharding.make_mesh(devices=jax.devices()[:1]), algorithm, **options)
    for mesh in (sharding.make_mesh(1), sharding.make_mesh(4)):
        many, many_costs = trained(mesh, algorithm, **options)
        np.testing.assert_allclose(many_costs, costs, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            np.testing.assert_allclose(b, a, atol=2e-5 * float(jnp.max(jnp.abs(a))) + 1e-7)
