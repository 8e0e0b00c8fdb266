"""Residual networks and a vision transformer: cost and fidelity of one sweep through networks of blocks.

A layer is a block with identity activation (`epjax.models.resnet18`, `resnet34`, `resnet50` with GroupNorm and the stem
for small images; `vit`), initialised as flax does, on real images. Beside `jax.grad` of the same network stand the
centered and the one-sided estimate by one sweep at beta 0.001, in float32. FLOPs are XLA's for the width that the row
says and, for the residual networks, at full width too, where they are counted and not run.

What the FLOPs must be: a weight gradient of a block pulls its error through the convolutions after the first as well,
F / 2 more than in a chain of single convolutions for a block of two, 3 F / 4 for a bottleneck. So one-sided EP costs
4.5 F or 4.75 F of backpropagation's 3 F, and centered, whose phases share one backward pass where nothing projects and
the products of the weights, and each pull their own error, 6 F or 6.5 F.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.draw import CENTERED, FORWARD, LIGHT, ONE_SIDED, dress, figure, save
from benchmarks.fidelity import compare
from benchmarks.measure import compile_program
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Target, at_least, at_most, find
from benchmarks.settings import at_initialisation
from epjax import Network, models

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
    "memory_over_backprop",
    "cosine",
    "worst_layer_cosine",
    "worst_layer",
    "relative_error",
    "repeats",
)

SIZE, BATCH, BETA = 32, 8, 0.001
METHODS = (Method(), Method(scheme="forward"))


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
    for method in METHODS:
        program = compile_program(method.build(s.net, BETA), *args)
        yield {
            **s.row(),
            **method.row(),
            "width": case.width or 1.0,
            "beta": BETA,
            "flops_over_backprop": program.flops / reference.flops,
            "flops_at_full_width": full.get(method.name),
            "memory_over_backprop": program.memory / reference.memory,
            "repeats": 1,
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


NOTE = "a weight gradient goes through a block's convolutions once more, F / 2 to 3 F / 4: see residual"


def targets(rows: list[Row]) -> list[Target]:
    """Cosine of the whole gradient and of the worst layer, centered; FLOPs at full width, the same at every depth."""
    found = []
    for row in find(rows, name="sweep1/centered"):
        if row["network"] == "ViT":
            found.append(at_least("ViT: worst layer, cosine, centered", row["worst_layer_cosine"], 0.999))
        if row["flops_at_full_width"] is None:
            continue
        name = row["network"]
        found.append(at_least(f"{name}: whole gradient, cosine, centered", row["cosine"], 0.9999))
        found.append(at_least(f"{name}: worst layer, cosine, centered", row["worst_layer_cosine"], 0.999))
        found.append(at_most(f"{name}: FLOPs over backpropagation, centered", row["flops_at_full_width"], 2.7))
        (other,) = find(rows, name="sweep1/forward", network=name)
        title = f"{name}: FLOPs over backpropagation, one-sided"
        found.append(at_most(title, other["flops_at_full_width"], 1.5, NOTE))
    return found


def draw(rows: list[Row], path: Path) -> None:
    """1 - cosine of whole gradient and worst layer; FLOPs; a group of bars for each network."""
    first, names = rows[0], list(dict.fromkeys(row["network"] for row in rows))
    what = f"{first['image_size']}x{first['image_size']}, batch {first['batch_size']}, beta {first['beta']:g}, "
    what += f"float32, {first['data']}"
    centered, forward = (find(rows, name=f"sweep1/{scheme}") for scheme in ("centered", "forward"))
    worst = min(row["worst_layer_cosine"] for row in centered)
    title = f"One centered sweep through networks of blocks: the cosine of the worst layer is {worst:.4f}"
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
