"""Where arrays live: a mesh of `data x model` devices, one rule for parameters, one for batches.

One path serves one device and many: everything is a `jax.jit` over arrays with a `NamedSharding`.

* A batch is divided over ALL devices, along `data` and `model` alike, so no device repeats another's work.
* Parameters and optimiser state are copied to every device when the `model` axis is 1, and divided over it
  otherwise (fully sharded data parallelism: gathered for use, kept in slices).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, MODEL = "data", "model"
# Slicing a small array saves nothing and costs a collective of its own.
SMALLEST_SHARDED_SIZE = 2**14


def make_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh `data x model` over `devices` (default: all); `model` divides their number."""
    devices = list(jax.devices() if devices is None else devices)
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
    """`parameter_sharding` for every leaf of a pytree of arrays or `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda leaf: parameter_sharding(mesh, leaf.shape), state)


def born_sharded(make: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`make`, whose results come to life where `parameter_sharding` puts them, never whole on one device."""

    def sharded(*arguments: Any) -> Any:
        shardings = state_shardings(mesh, jax.eval_shape(make, *arguments))
        return jax.jit(make, out_shardings=shardings)(*arguments)

    return sharded


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuse a batch that the devices cannot share equally."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(f"batch_size must be a multiple of the number of devices, {mesh.size}, but is {batch_size}")


def put_batch(mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]:
    """A function that places a host batch; this process gives its share, [b / processes, ...]."""
    sharding = batch_sharding(mesh)

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}

    return put
