"""Where arrays live: a mesh of `data x model` devices, one rule for parameters, one for batches.

One path serves one device and many: everything is a `jax.jit` over arrays with a `NamedSharding`.

* A batch is divided over ALL devices, along `data` and `model` alike, so no device repeats another's work.
* Parameters and optimiser state are copied to every device when the `model` axis is 1, and divided over it
  otherwise (fully sharded data parallelism: gathered for use, kept in slices).
* A gradient is computed by each device from its own share of the batch (`per_device`) and reduced once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from epjax.network import Params, Stacked
from epjax.systems.system import Aux, ValueAndGrad

DATA, MODEL = "data", "model"
# Slicing a small array saves nothing and costs a collective of its own.
SMALLEST_SHARDED_SIZE = 2**14


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh `data x model` over `devices` (default: all, process by process); `model` divides their number."""
    if devices is None:  # in this order the rows of the global batch are those of process 0, then 1, and so on
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if model < 1 or len(devices) % model:
        raise ValueError(f"model_parallel must divide the number of devices, {len(devices)}, but is {model}")
    grid = np.asarray(devices).reshape(len(devices) // model, model)
    # Auto: the compiler places what is between the arguments and results that we place ourselves.
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis divided over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, MODEL)))


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The one rule: the longest axis that `model` divides is divided over it; small arrays are copied."""
    model = mesh.shape[MODEL]
    axes = [axis for axis, length in enumerate(shape) if length % model == 0]
    if model == 1 or not axes or int(np.prod(shape)) < SMALLEST_SHARDED_SIZE:
        return replicated(mesh)
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[MODEL if axis == longest else None for axis in range(len(shape))]))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """`parameter_sharding` for every leaf of a pytree of arrays or `jax.ShapeDtypeStruct`.

    What a run of equal layers holds lies as that of one layer: the axis of the layers is whole on every device.
    """

    def of(leaf: Any) -> Any:
        if isinstance(leaf, Stacked):
            return jax.tree.map(lambda v: _of_each_layer(mesh, v.shape), leaf)
        return parameter_sharding(mesh, leaf.shape)

    return jax.tree.map(of, state, is_leaf=lambda leaf: isinstance(leaf, Stacked))


def _of_each_layer(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    spec = parameter_sharding(mesh, shape[1:]).spec
    return NamedSharding(mesh, PartitionSpec(None, *spec) if spec else spec)


def born_sharded(make: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`make`, whose results come to life where `parameter_sharding` puts them, never whole on one device."""

    def sharded(*arguments: Any) -> Any:
        shardings = state_shardings(mesh, jax.eval_shape(make, *arguments))
        return jax.jit(make, out_shardings=shardings)(*arguments)

    return sharded


def per_device(value_and_grad: ValueAndGrad, mesh: Mesh) -> ValueAndGrad:
    """`value_and_grad` of the whole batch, where each device does its share and knows nothing of the others.

        cost = mean_d cost_d,    grads = mean_d grads_d    over the devices d

    An equilibration that stops by its tolerance so stops on each device by itself: no collective stands between
    gathering the parameters that are kept in slices and the one reduction of the gradient, which leaves it in the
    same slices. The key must be None, or keys [B], one for each example, whatever device that lies on.
    """
    if mesh.size == 1:
        return value_and_grad
    batch, everywhere = PartitionSpec((DATA, MODEL)), PartitionSpec()

    def sharded(params: Params, x: Array, y: Array, key: Array | None = None) -> tuple[tuple[Array, Aux], Params]:
        if key is not None and key.shape != x.shape[:1]:
            raise ValueError(f"key must be None or one key for each of {x.shape[0]} examples, got shape {key.shape}")
        specs = jax.tree.map(lambda placed: placed.spec, state_shardings(mesh, params))

        def own_share(slices: Params, x: Array, y: Array, key: Array | None) -> tuple[tuple[Array, Aux], Params]:
            (cost, aux), grads = value_and_grad(jax.tree.map(_gather, slices, specs), x, y, key)
            cost, grads = lax.psum(cost, (DATA, MODEL)), jax.tree.map(_reduce, grads, specs)
            return (cost / mesh.size, aux), jax.tree.map(lambda g: g / mesh.size, grads)

        # check_vma is off so that value_and_grad may be any function of a batch: with it on, the constants that its
        # loops start from would have to be cast to "varying" in there. All that leaves as a copy is summed above.
        out = ((everywhere, batch), specs)
        shares = jax.shard_map(
            own_share, mesh=mesh, in_specs=(specs, batch, batch, batch), out_specs=out, check_vma=False
        )
        return shares(params, x, y, key)

    return sharded


def _gather(part: Array, spec: PartitionSpec) -> Array:
    """The whole of a parameter from the slices of it that the devices of a `model` group keep."""
    return lax.all_gather(part, MODEL, axis=tuple(spec).index(MODEL), tiled=True) if MODEL in spec else part


def _reduce(grad: Array, spec: PartitionSpec) -> Array:
    """The sum over all devices, sliced as the parameter is."""
    if MODEL not in spec:
        return lax.psum(grad, (DATA, MODEL))
    return lax.psum(lax.psum_scatter(grad, MODEL, scatter_dimension=tuple(spec).index(MODEL), tiled=True), DATA)


def check_batch_size(batch_size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Refuse a batch that the devices, and the microbatches on each, cannot share equally."""
    share, of = mesh.size * microbatches, f"the number of devices, {mesh.size}"
    if microbatches > 1:
        of = f"devices times microbatches, {mesh.size} x {microbatches} = {share}"
    if batch_size < 1 or batch_size % share:
        raise ValueError(f"batch_size must be a multiple of {of}, but is {batch_size}")


def put_batch(mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]:
    """A function that places a host batch; this process gives its share, [b / processes, ...]."""
    sharding = batch_sharding(mesh)

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}

    return put
