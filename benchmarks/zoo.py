"""Every network of `epjax.models`: size, work, and how near EP's gradient is to `jax.grad` before and after training.

Parameters and the FLOPs of a forward pass, XLA's of one example, are those of the network at its own size, which is
not run. Fidelity is measured on a narrow one, on the images and the text that come with epjax: centered EP by one
sweep at beta 0.0005 in float32, beside `jax.grad` of the same batch, at initialisation and after a short training by
that gradient and Adam at 0.001. `python -m benchmarks.zoo` writes docs/zoo.md from the results.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from benchmarks.draw import GOLD, VIOLET, dress, figure, save
from benchmarks.fidelity import compare
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Target, at_least, text
from epjax import Network, models
from epjax.data import Dataset, Transform, Window, open_dataset, open_text, train_batches
from epjax.network import Params
from epjax.network.summary import count, flops
from epjax.runs.markdown import markdown
from epjax.training.step import Normalise

NAME = "zoo"
COLUMNS = (
    "network",
    "layers_count",
    "parameters",
    "forward_flops",
    "input",
    "measured",
    "measured_parameters",
    "initial_worst_cosine",
    "trained_worst_cosine",
    "cost_before",
    "cost_after",
    "precision",
    "beta",
    "batch_size",
    "repeats",
)

TEXT = """# Model zoo

<!-- Written by `python -m benchmarks.zoo` from benchmarks/results/zoo.json. -->

Networks by name, each a predictive coding network: `epjax.models.vgg10(num_classes)`. Those of flax, and functions of
your own, are networks as well: [Your model](your_model.md).

Parameters, and FLOPs of a forward pass of one example by XLA's count, at the size that the name stands for: 1,000
classes at 224x224, 10 at 32x32 and 28x28, 65 characters.

{sizes}

## How near EP is to backpropagation

The cosine between EP's gradient and that of `jax.grad`, of the layer where it is least: centered, one sweep, beta
{beta:g}, float32, one batch of {batch_size}; at initialisation, and after {steps} steps of Adam at {rate:g} by that
gradient. Measured narrow, on the images and the text that come with epjax. The cost is that of the first batch, then
the mean of the last ten.

{found}

![One minus the cosine of the worst layer](../benchmarks/results/zoo.png)

Measured on {processor}, {cores} cores, jax {jax}, by `python -m benchmarks zoo --json FILE`.
"""

FLOOR = 1e-12
BETA, RATE, BATCH, STEPS = 5e-4, 1e-3, 16, 100
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
RESULTS = Path(__file__).parent / "results" / "zoo.json"


@dataclass(frozen=True)
class Case:
    """A network at its own size with its input, and as it is measured, in words too; the command that trains it."""

    name: str
    own: Callable[[], Network]
    shape: tuple[int, ...]
    narrow: Callable[[int], Network]
    measured: str
    command: str = ""


def _residual(name: str, make: Callable[..., Network], command: str = "") -> Case:
    narrow = partial(make, width=0.125, small_images=True)
    return Case(name, make, (224, 224, 3), narrow, "width 1/8, 32x32", command)


def _vgg10(name: str, make: Callable[..., Network], command: str) -> Case:
    narrow = partial(make, width=0.125, dense=128, gain=2.45)
    return Case(name, make, (224, 224, 3), narrow, "width 1/8, 128 dense, gain 2.45, 32x32", command)


CONTEXT = 32
CASES = (
    Case(
        *("mlp", partial(models.mlp, (512, 10)), (28, 28, 1)),
        *(lambda classes: models.mlp((64, classes)), "64 hidden, 32x32", "epjax train perceptron --recipe mnist"),
    ),
    Case(
        *("residual_mlp", partial(models.residual_mlp, 512, 32, 10), (28, 28, 1)),
        *(partial(models.residual_mlp, 64, 16, scaling="mupc"), "width 64, 16 layers, muPC, 32x32", ""),
    ),
    Case(
        *("vgg5", models.vgg5, (32, 32, 3), partial(models.vgg5, width=0.125, gain=2.0)),
        *("width 1/8, gain 2, 32x32", "epjax train vgg5 --dataset cifar10"),
    ),
    _vgg10("vgg10", models.vgg10, "epjax train imagenet_vgg10"),
    _vgg10("vgg10_skip", models.vgg10_skip, "epjax train imagenet_vgg10 --skip"),
    _residual("resnet18", models.resnet18, "epjax train resnet18 --dataset cifar10"),
    _residual("resnet34", models.resnet34),
    _residual("resnet50", models.resnet50, "epjax train imagenet_resnet50"),
    Case(
        *("vit", models.vit, (32, 32, 3), partial(models.vit, features=48, depth=2)),
        *("48 features, 2 blocks, 32x32", ""),
    ),
    Case(
        *("gpt", partial(models.gpt, 65, 64, features=64, depth=2), (64,)),
        *(lambda vocab: models.gpt(vocab, CONTEXT, features=32, depth=2), "32 features, 2 blocks, context 32"),
        "epjax train char_lm",
    ),
)


def run(quick: bool) -> list[Row]:
    """Every network; quick: two of them, three steps."""
    return told(_measure(case, 3 if quick else STEPS) for case in CASES if not quick or case.name in ("mlp", "gpt"))


def _measure(case: Case, steps: int) -> Row:
    own, shape = case.own(), case.shape
    params = jax.eval_shape(lambda: own.init(jax.random.key(0), shape))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    row = {
        "network": case.name,
        "layers_count": len(own),
        "parameters": count(params),
        "forward_flops": flops(lambda params, x: own.forward(params, x)[-1], params, x),
        "input": "x".join(map(str, shape)),
        "measured": case.measured,
        "command": case.command,
    }
    found = {**row, **_fidelity(case, steps)}
    jax.clear_caches()
    return found


def _data(case: Case) -> tuple[Dataset, Transform]:
    if case.name == "gpt":
        return open_text("demo", CONTEXT), Window(CONTEXT, moved=True)
    data = open_dataset("demo")
    return data, data.transforms(32, "none")[0]


def _fidelity(case: Case, steps: int) -> Row:
    """Of the first batch, before and after `steps` steps on others."""
    data, transform = _data(case)
    net = case.narrow(len(data.classes))
    params = net.init(jax.random.key(0), transform.shape)
    ep, exact = jax.jit(Method().build(net, BETA)), jax.jit(backprop(net))
    optimiser = optax.adam(RATE)
    state = optimiser.init(params)

    @jax.jit
    def update(params: Params, state: optax.OptState, grads: Params) -> tuple[Params, optax.OptState]:
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def worst(params: Params, *batch: Array) -> float:
        return float(compare(ep(params, *batch)[1], exact(params, *batch)[1])["worst_layer_cosine"])

    held_out, *batches = _batches(data, transform, steps + 1)
    initial, costs = worst(params, *held_out), []
    for batch in batches:
        (cost, _), grads = ep(params, *batch)
        params, state = update(params, state, grads)
        costs.append(float(cost))
    return {
        "measured_parameters": count(params),
        "initial_worst_cosine": initial,
        "trained_worst_cosine": worst(params, *held_out),
        "cost_before": costs[0],
        "cost_after": float(np.mean(costs[-10:])),
        **{"steps": steps, "batch_size": BATCH, "precision": "float32", "beta": BETA, "repeats": 1, "data": data.name},
    }


def _batches(data: Dataset, transform: Transform, number: int) -> Iterator[tuple[Array, ...]]:
    normalise, key = Normalise(*data.stats), jax.random.key(0)
    with train_batches(data.train, transform, batch_size=BATCH, seed=0) as source:
        for _ in range(number):
            batch = next(source)
            yield normalise(jnp.asarray(batch["image"])), jnp.asarray(batch["label"]), key


def targets(rows: Sequence[Row]) -> list[Target]:
    """the worst layer of every network that was trained for 100 steps keeps a cosine of 0.99."""
    full = [row for row in rows if row["steps"] == STEPS]
    moments = ("initial", "trained")
    return [
        at_least(f"{row['network']}: worst layer, cosine, {moment}", row[f"{moment}_worst_cosine"], 0.99)
        for row in full
        for moment in moments
    ]


def draw(rows: list[Row], path: Path) -> None:
    """How far the worst layer is from `jax.grad`, before and after training."""
    what = f"centered EP, one sweep, beta {BETA:g}, float32; narrow networks, {rows[0]['steps']} steps of {BATCH}"
    fig, axes = figure("Every network of epjax.models", what)
    ax = axes[0, 0]
    for offset, moment, colour in ((-0.18, "initial", GOLD), (0.18, "trained", VIOLET)):
        values = [max(1 - row[f"{moment}_worst_cosine"], FLOOR) for row in rows]
        label = {"initial": "at initialisation", "trained": "after training"}[moment]
        ax.bar([i + offset for i in range(len(rows))], values, width=0.34, color=colour, label=label)
    ax.set_yscale("log")
    dress(ax, "the worst layer's distance from jax.grad", "", f"1 - cosine, {FLOOR:g} where it is less")
    ax.set_xticks(range(len(rows)), [row["network"] for row in rows])
    save(fig, path)


def page(rows: Sequence[Row], machine: dict[str, str]) -> str:
    """docs/zoo.md."""
    sizes = [
        (
            f"`{row['network']}`",
            str(row["layers_count"]),
            f"{row['parameters']:,}",
            f"{row['forward_flops'] / 1e6:,.1f} M",
            row["input"],
            f"`{row['command']}`" if row["command"] else "[an experiment of your own](extend.md)",
        )
        for row in rows
    ]
    found = [
        (
            f"`{row['network']}`",
            row["measured"],
            f"{row['measured_parameters']:,}",
            text(row["initial_worst_cosine"]),
            text(row["trained_worst_cosine"]),
            f"{row['cost_before']:.2f} to {row['cost_after']:.2f}",
        )
        for row in rows
    ]
    size_columns = ("`epjax.models`", "layers", "parameters", "FLOPs forward", "input", "command")
    found_columns = ("", "measured at", "parameters", "worst cosine, initial", "trained", "cost")
    return TEXT.format(
        sizes="\n".join(markdown(size_columns, sizes, "lrrrll")),
        found="\n".join(markdown(found_columns, found, "llrrrr")),
        **{name: machine[name] for name in ("processor", "cores", "jax")},
        **{name: rows[0][name] for name in ("beta", "batch_size", "steps")},
        rate=RATE,
    )


if __name__ == "__main__":
    content = json.loads(RESULTS.read_text())
    PAGE.write_text(page(content["rows"], content["machine"]))
