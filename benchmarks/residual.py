"""Residual networks and a vision transformer: cost and fidelity of one sweep through networks of blocks.

A layer is a block with identity activation (`epjax.models.resnet18`, `resnet34`, `resnet50` with GroupNorm and the stem
for small images; `vit`; 16 blocks h + W gelu(V norm(h)) of width 128), initialised as flax does, on real images. Beside
`jax.grad` of the same network stand the centered and the one-sided estimate by one sweep at beta 0.001, in float32.
FLOPs are XLA's for the width that the row says and, for the residual networks, at full width too, where they are
counted and not run. Seconds are medians of runs in turn.

What the FLOPs must be: where nothing projects the phases share one backward pass, which pulls errors to the inside of
the blocks as well, and the products of the weights. One-sided EP costs 4 F of backpropagation's 3 F and centered 5 F,
as in a chain of single convolutions. "own pulls" has each phase pull its error through the block once more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.draw import CENTERED, FORWARD, LIGHT, ONE_SIDED, dress, figure, save
from benchmarks.fidelity import compare
from benchmarks.measure import compile_program, paired_times
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Target, at_least, at_most, find
from benchmarks.settings import at_initialisation
from epjax import Layer, Network, models
from epjax.network.activation import identity
from epjax.network.drive import Dense

NAME = "residual"
COLUMNS = (
    "network",
    "layers_count",
    "width",
    "image_size",
    "batch_size",
    "name",
    "precision",
    "beta",
    "flops_over_backprop",
    "flops_at_full_width",
    "seconds_over_backprop",
    "temporaries_over_backprop",
    "memory_over_backprop",
    "cosine",
    "worst_layer_cosine",
    "worst_layer",
    "relative_error",
    "repeats",
)

SIZE, BATCH, BETA, REPEATS = 32, 64, 0.001, 5
METHODS = (Method(), Method(pulls="own"), Method(scheme="forward"))
NARROW = "16 blocks of 128"


class Narrow(nn.Module):
    """h + W gelu(V norm(h))."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """[B, 128] -> the same."""
        return h + nn.Dense(128)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(h))))


def narrow(classes: int) -> Network:
    """A dense layer, 16 blocks, a dense output."""
    layers = (Dense(128), *(Narrow() for _ in range(16)), Dense(classes))
    return Network(tuple(Layer(layer, identity) for layer in layers))


@dataclass(frozen=True)
class Case:
    """A network by name, as it is measured, and at full width where its FLOPs are counted too."""

    name: str
    make: Callable[..., Network]
    width: float | None

    def network(self, width: float | None) -> Network:
        """For ten classes of small images."""
        return self.make(10) if width is None else self.make(10, width=width, small_images=True)


FULL = (
    Case("ResNet-18", models.resnet18, 0.25),
    Case("ResNet-34", models.resnet34, 0.25),
    Case("ResNet-50", models.resnet50, 0.25),
    Case("ViT", models.vit, None),
    Case(NARROW, narrow, None),
)
QUICK = (Case("ResNet of one block", partial(models.resnet.resnet, (1,)), 1 / 16),)


def run(quick: bool) -> list[Row]:
    """Every network, centered and one-sided."""
    return told(row for case in (QUICK if quick else FULL) for row in _measure(case, quick))


def _measure(case: Case, quick: bool) -> Iterator[Row]:
    size, batch = (8, 2) if quick else (SIZE, BATCH)
    s = at_initialisation(case.name, case.network(case.width), "cifar10", size, batch, "initial")
    args = (s.params, s.x, s.y % 10, jax.random.key(0))
    reference = compile_program(backprop(s.net), *args)
    gradient = reference.run(*args)[1]
    full = {} if quick or case.width is None else _full_width(case, size, batch)
    repeats, again = 2 if quick else REPEATS, partial(reference.run, *args)
    for method in METHODS:
        program = compile_program(method.build(s.net, BETA), *args)
        yield {
            **s.row(),
            **method.row(),
            "width": case.width or 1.0,
            "beta": BETA,
            "flops_over_backprop": program.flops / reference.flops,
            "flops_at_full_width": full.get(method.name),
            "seconds_over_backprop": paired_times(partial(program.run, *args), again, repeats).ratio,
            "temporaries_over_backprop": program.temporaries / reference.temporaries,
            "memory_over_backprop": program.memory / reference.memory,
            "repeats": repeats,
            **compare(program.run(*args)[1], gradient),
        }
    jax.clear_caches()


def _full_width(case: Case, size: int, batch: int) -> dict[str, float]:
    """FLOPs over backpropagation at width 1, from compiled programs that are not run."""
    net = case.network(1.0)
    params = jax.eval_shape(partial(net.init, input_shape=(size, size, 3)), jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    args = (params, x, y, jax.random.key(0))
    reference = compile_program(backprop(net), *args).flops
    return {m.name: compile_program(m.build(net, BETA), *args).flops / reference for m in METHODS}


def targets(rows: list[Row]) -> list[Target]:
    """Cosines, centered; FLOPs at full width; seconds and temporaries of ResNet-18; seconds over FLOPs, narrow."""
    found = []
    for row in find(rows, name="sweep1/centered"):
        if row["network"] == "ViT":
            found.append(at_least("ViT: worst layer, cosine, centered", row["worst_layer_cosine"], 0.999))
        name = row["network"]
        (other,) = find(rows, name="sweep1/forward", network=name)
        if name == NARROW:
            for scheme, r in (("centered", row), ("one-sided", other)):
                share = r["seconds_over_backprop"] / r["flops_over_backprop"]
                found.append(at_most(f"{name}: seconds over FLOPs, of backpropagation's, {scheme}", share, 1.2))
        if name == "ResNet-18":
            for scheme, r, seconds, room in (("centered", row, 1.8, 1.4), ("one-sided", other, 1.3, 1.0)):
                title = f"{name}, width 1/4, batch {BATCH}: {{}} over backpropagation, {scheme}"
                found.append(at_most(title.format("seconds"), r["seconds_over_backprop"], seconds))
                found.append(at_most(title.format("temporaries"), r["temporaries_over_backprop"], room))
        if row["flops_at_full_width"] is None:
            continue
        found.append(at_least(f"{name}: whole gradient, cosine, centered", row["cosine"], 0.9999))
        found.append(at_least(f"{name}: worst layer, cosine, centered", row["worst_layer_cosine"], 0.999))
        found.append(at_most(f"{name}: FLOPs over backpropagation, centered", row["flops_at_full_width"], 1.75))
        title = f"{name}: FLOPs over backpropagation, one-sided"
        found.append(at_most(title, other["flops_at_full_width"], 1.45))
    return found


def draw(rows: list[Row], path: Path) -> None:
    """1 - cosine of whole gradient and worst layer; FLOPs; a group of bars for each network."""
    first, names = rows[0], list(dict.fromkeys(row["network"] for row in rows))
    what = f"{first['image_size']}x{first['image_size']}, batch {first['batch_size']}, beta {first['beta']:g}, "
    what += f"float32, {first['data']}"
    centered, forward = (find(rows, name=f"sweep1/{scheme}") for scheme in ("centered", "forward"))
    worst = min(row["worst_layer_cosine"] for row in centered)
    title = f"One centered sweep through networks of blocks: the worst layer's cosine is within {1 - worst:.0e} of 1"
    fig, axes = figure(title, what, (1, 2), (10.4, 4.6))
    fidelity, cost = axes[0]
    for ax, offset, line, name, label, colour in (
        (fidelity, -0.3, centered, "cosine", "centered, whole gradient", LIGHT),
        (fidelity, -0.1, centered, "worst_layer_cosine", "centered, worst layer", CENTERED),
        (fidelity, 0.1, forward, "cosine", "one-sided, whole gradient", FORWARD),
        (fidelity, 0.3, forward, "worst_layer_cosine", "one-sided, worst layer", ONE_SIDED),
        (cost, -0.1, centered, "flops_over_backprop", "centered", CENTERED),
        (cost, 0.1, forward, "flops_over_backprop", "one-sided", ONE_SIDED),
    ):
        values = [1 - row[name] if "cosine" in name else row[name] for row in line]
        ax.bar([i + offset for i in range(len(names))], values, width=0.18, color=colour, label=label)
    fidelity.set_yscale("log")
    fidelity.set_ylim(top=1)
    cost.set_ylim(top=4)
    dress(fidelity, "how far from jax.grad", "", "1 - cosine")
    dress(cost, "FLOPs", "", "multiple of backpropagation")
    for ax in axes[0]:
        ax.set_xticks(range(len(names)), names)
    save(fig, path)
