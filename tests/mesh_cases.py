"""Small trainings that any number of devices and processes must do alike, for `test_sharding`.

`python mesh_cases.py COORDINATOR PROCESSES PROCESS OUT` does all of them as one of several processes.

The layers are smooth, so that no kink amplifies rounding; one parameter is large enough to be kept in slices.
"""

import pickle
import sys
from functools import cache
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

import epjax
from epjax import Layer, Network
from epjax.network.activation import identity, relu, tanh
from epjax.network.drive import Conv, Dense
from epjax.training import processes, sharding
from epjax.training.accumulation import accumulate
from epjax.training.optimiser import sgd
from epjax.training.step import Normalise, initial_state, train_step

STEPS, BATCH, LEAVES = 20, 16, 6
SCHEMES = ("centered", "forward", "backward", "random")
SLICED = "sweep-random"
CASES = ("bp", "relu", *(f"sweep-{scheme}" for scheme in SCHEMES), *(f"async-{scheme}" for scheme in SCHEMES))


class Trained(NamedTuple):
    """Parameters and metrics after a training, and the compiled step."""

    params: list[np.ndarray]
    metrics: list[list[float]]
    program: str


@cache
def network(activation):
    """A convolution and two dense layers, for 8x8 images."""
    return Network(
        (
            Layer(Conv(4, pool=True, gain=2.0), activation),
            Layer(Dense(256, 2.0), activation),
            Layer(Dense(10), identity),
        )
    )


def case(name):
    """The network and the gradient function. Every second scheme stops by a tolerance, the others run to the end."""
    net = network(relu if name == "relu" else tanh)
    if name == "bp":
        return net, epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy)
    if name == "relu":
        return net, epjax.value_and_grad(net, epjax.cost.cross_entropy)
    traversal, scheme = name.split("-")
    stops = scheme in ("random", "forward") or name == "async-centered"
    if traversal == "sweep":
        way = epjax.Sweep(6, update="pgd", tolerance=1e-3) if stops else epjax.Sweep(2, update="pgd", unroll=2)
    else:
        way = epjax.Async(8 if stops else 4, update="pgd", tolerance=1e-3 if stops else None)
    return net, epjax.value_and_grad(net, epjax.cost.cross_entropy, scheme=scheme, equilibration=way)


@cache
def initial_params(net):
    """The parameters before the first step, on the host."""
    return jax.device_get(net.init(jax.random.key(0), (8, 8, 3)))


def batches():
    """The global batches; a process takes its rows."""
    random, share = np.random.default_rng(0), BATCH // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    for _ in range(STEPS):
        image = random.integers(0, 256, (BATCH, 8, 8, 3)).astype(np.uint8)
        label = random.integers(0, 10, BATCH).astype(np.int32)
        yield {"image": image[rows], "label": label[rows]}


SGD = sgd(0.05, weight_decay=1e-3)


def start(net, mesh, optimiser=SGD):
    """The optimiser and the state before the first step, on the mesh."""
    state = initial_state(initial_params(net), optimiser)
    return optimiser, jax.device_put(state, sharding.state_shardings(mesh, state))


def train(name, mesh, microbatches=1, optimiser=SGD):
    """`STEPS` steps, fewer where layers have kinks."""
    net, gradient = case(name)
    optimiser, state = start(net, mesh, optimiser)
    normalise = Normalise((0.5,) * 3, (0.25,) * 3)
    estimate = sharding.per_device(accumulate(gradient, microbatches), mesh)
    step = train_step(estimate, optimiser, normalise, seed=1)
    put, compiled, metrics = sharding.put_batch(mesh), None, []
    steps = 5 if name == "relu" else STEPS  # every kink makes rounding larger
    for batch in map(put, islice(batches(), steps)):
        compiled = compiled or step.lower(state, batch).compile()
        state, measured = compiled(state, batch)
        metrics.append([float(measured[key]) for key in ("cost", "top1_error", "top5_error")])
    params = [multihost_utils.process_allgather(leaf, tiled=True) for leaf in jax.tree.leaves(state.params)]
    return Trained(params, metrics, compiled.as_text())


def assert_same_training(one, other):
    """Equal to float32 rounding."""
    np.testing.assert_allclose(one.metrics, other.metrics, rtol=2e-5)
    for a, b in zip(one.params, other.params, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.max(np.abs(b))))


def main(coordinator, num_processes, process_id, out):
    """All smooth cases, and one with parameters in slices, over the devices of all processes."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    processes.start(coordinator, int(num_processes), int(process_id))
    done = {name: train(name, sharding.make_mesh()) for name in CASES if name != "relu"}
    done["in slices"] = train(SLICED, sharding.make_mesh(2))
    with open(out, "wb") as file:
        pickle.dump({name: tuple(trained) for name, trained in done.items()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
