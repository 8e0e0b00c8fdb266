"""One changed line: a plain flax and optax loop on Fashion-MNIST, with backpropagation's loss and with `epjax.ep_loss`.

    python -m experiments.drop_in --out experiments/results/drop_in.json

A small convolutional network, SGD with momentum, cosine decay; every seed draws weights and order anew. The loop is
written as flax's own examples are, and does not know which loss it is given.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax.training.train_state import TrainState

import epjax
from epjax.data import open_dataset
from epjax.runs import machine
from epjax.runs.command import sentence
from epjax.runs.markdown import markdown

SHARED = Path(os.environ.get("EPJAX_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Options:
    """What is trained, and how long."""

    data: Annotated[str, tyro.conf.arg(metavar="DATA")] = str(SHARED / "fashion_mnist")
    """Images, as `--data` of the other commands takes them."""
    seeds: int = 3
    """Runs by each loss."""
    epochs: int = 2
    """Passes over the training images."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 0.05
    """Of SGD with Nesterov momentum 0.9, before its cosine decay to zero."""
    beta: float = 0.05
    """Nudging strength of centered EP by one sweep."""
    image_size: int = 28
    """Pixels a side."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """Where the numbers go."""


@dataclass(frozen=True)
class Images:
    """Normalised images [N, H, W, C] and labels [N] of both splits."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load(options: Options) -> Images:
    """All images in memory."""
    data = open_dataset(options.data)
    _, transform = data.transforms(options.image_size)
    mean, std = np.asarray(data.stats, np.float32)
    arrays: list[np.ndarray] = []
    for split in (data.train, data.val):
        examples = [split[i] for i in range(len(split))]
        pixels = np.stack([transform(example, np.random.default_rng(0)) for example in examples])
        arrays += [(pixels.astype(np.float32) / 255 - mean) / std, np.array([e.label for e in examples], np.int32)]
    return Images(*arrays)


def network() -> nn.Sequential:
    """Two convolutions with pooling, two dense layers: 54,794 parameters at 28x28x1."""
    pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    parts: list[Any] = [nn.Conv(8, (3, 3)), nn.relu, pool, nn.Conv(16, (3, 3)), nn.relu, pool]
    return nn.Sequential([*parts, lambda x: x.reshape((x.shape[0], -1)), nn.Dense(64), nn.relu, nn.Dense(10)])


def train(model: nn.Sequential, loss_fn: Callable[..., Any], images: Images, options: Options, seed: int) -> float:
    """A plain flax and optax loop; gives the test error in percent."""
    steps = options.epochs * (len(images.x) // options.batch_size)
    tx = optax.sgd(optax.cosine_decay_schedule(options.learning_rate, steps), momentum=0.9, nesterov=True)
    params = model.init(jax.random.key(seed), images.x[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def train_step(state: TrainState, x: jax.Array, y: jax.Array) -> tuple[TrainState, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(state.params, x, y)
        return state.apply_gradients(grads=grads), loss

    @jax.jit
    def wrong(state: TrainState, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(jnp.argmax(state.apply_fn({"params": state.params}, x), -1) != y)

    random = np.random.default_rng(seed)
    for _ in range(options.epochs):
        order = random.permutation(len(images.x))
        for i in range(0, len(order) - options.batch_size + 1, options.batch_size):
            picks = order[i : i + options.batch_size]
            state, _ = train_step(state, images.x[picks], images.y[picks])
    parts = np.array_split(np.arange(len(images.test_x)), max(1, len(images.test_x) // 1000))
    return 100 * sum(int(wrong(state, images.test_x[p], images.test_y[p])) for p in parts) / len(images.test_x)


def compare(options: Options) -> dict[str, Any]:
    """Test errors (%) and seconds of every seed, by the two losses."""
    images, model = load(options), network()
    cost = optax.softmax_cross_entropy_with_integer_labels

    def bp_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return cost(model.apply({"params": params}, x), y).mean()

    ep_loss = epjax.ep_loss(model, cost, beta=options.beta)
    rows: dict[str, Any] = {"backpropagation": [], "EP": []}
    for seed in range(options.seeds):
        for (name, runs), loss_fn in zip(rows.items(), (bp_loss, ep_loss), strict=True):
            began = time.perf_counter()
            error = train(model, loss_fn, images, options, seed)
            runs.append({"seed": seed, "test_error": error, "seconds": round(time.perf_counter() - began, 1)})
            print(f"{name}, seed {seed}: {error:.2f}% test error, {runs[-1]['seconds']:.0f} s", flush=True)
    return rows


def table(rows: dict[str, Any]) -> str:
    """Mean and spread of the test error, as Markdown."""
    body = []
    for name, runs in rows.items():
        errors = [run["test_error"] for run in runs]
        spread = np.std(errors, ddof=1) if len(errors) > 1 else float("nan")
        body.append((name, f"{np.mean(errors):.2f}%", f"{spread:.2f}", ", ".join(f"{e:.2f}" for e in errors)))
    return "\n".join(markdown(("loss", "test error, mean", "standard deviation", "of each seed"), body, "lrrl"))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = tyro.cli(Options, args=argv, prog="python -m experiments.drop_in", description=__doc__)
    try:
        rows = compare(options)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    print(table(rows))
    if options.out is not None:
        kept = {name: value for name, value in asdict(options).items() if name not in ("data", "out")}
        kept |= {"data": Path(options.data).name, "machine": machine.describe(), "runs": rows}
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
