"""Networks with parameters and real images: what the benchmarks measure on."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import epjax
from epjax.data import Dataset, open_dataset, train_batches
from epjax.data.sources.tar import open_unsplit
from epjax.network import Network, Params
from epjax.training.optimiser import sgd
from epjax.training.step import Normalise, initial_state, train_step

SHARED = {
    "imagenet": "imagenet_sample.tar",
    "tiny_imagenet": "tiny_imagenet_20.tar",
    "cifar10": "cifar10.tar",
    "mnist": "mnist",
}


@dataclass(frozen=True)
class Setting:
    """A network, its parameters and one batch. `state` says how the parameters came about, `data` which images."""

    network: str
    state: str
    net: Network
    params: Params
    x: Array
    y: Array
    data: str

    def row(self) -> dict[str, object]:
        """What a row says about it."""
        return {
            "network": self.network,
            "state": self.state,
            "layers_count": len(self.net),
            "image_size": self.x.shape[1],
            "batch_size": self.x.shape[0],
            "data": self.data,
        }


@cache
def dataset(name: str) -> Dataset:
    """The real images of that name in the shared folder (see EPJAX_SHARED_DATA), or the demo where it has none."""
    folder = Path(os.environ.get("EPJAX_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = folder / SHARED[name]
    if not path.exists():
        return open_dataset("demo")
    return open_unsplit(path) if name == "imagenet" else open_dataset(str(path))


def batch(name: str, size: int, count: int, seed: int = 0) -> tuple[Array, Array, str]:
    """`count` training images at size x size as evaluation sees them, normalised: x, y, and which data they are."""
    data = dataset(name)
    _, transform = data.transforms(size)
    picks = np.random.default_rng(seed).permutation(len(data.train))[:count]
    examples = [data.train[int(i)] for i in picks]
    images = np.stack([transform(example, np.random.default_rng(0)) for example in examples])
    x = Normalise(*data.stats)(jnp.asarray(images))
    return x, jnp.array([example.label for example in examples], jnp.int32), data.name


def at_initialisation(
    network: str, net: Network, data: str, size: int, count: int, state: str, seed: int = 0
) -> Setting:
    """Parameters and images drawn by `seed`."""
    x, y, origin = batch(data, size, count, seed)
    return Setting(network, state, net, net.init(jax.random.key(seed), x.shape[1:]), x, y, origin)


def after_training(
    network: str, net: Network, data: str, size: int, count: int, *, steps: int, batch_size: int, learning_rate: float
) -> Setting:
    """The parameters after `steps` steps of backpropagation: SGD with Nesterov momentum 0.9, cosine to zero."""
    images = dataset(data)
    transform, _ = images.transforms(size)
    optimiser = sgd(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=2e-4)
    gradient = epjax.backprop_value_and_grad(net, epjax.cost.cross_entropy)
    step = train_step(gradient, optimiser, Normalise(*images.stats))
    state = initial_state(net.init(jax.random.key(0), transform.shape), optimiser)
    batches = train_batches(images.train, transform, batch_size=batch_size, seed=0)
    costs = []
    for _, one in zip(range(steps), batches, strict=False):
        state, metrics = step(state, {name: jnp.asarray(value) for name, value in one.items()})
        costs.append(float(metrics["cost"]))
    label = f"after {steps} steps (batch {batch_size}, lr {learning_rate:g}): cost {costs[0]:.2f} -> "
    label += f"{np.mean(costs[-10:]):.2f}"
    x, y, origin = batch(data, size, count)
    return Setting(network, label, net, state.params, x, y, origin)
