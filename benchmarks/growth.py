"""What EP costs and keeps as a language model grows: depth, width and context of a causal transformer.

`epjax.models.gpt` with its blocks stacked (`epjax.Repeat`), attention and MLP a layer each, on characters of the text
that comes with epjax; one sweep, one-sided (random signs) and centered. FLOPs and memory are in units of
backpropagation of the same network; XLA counts a loop's body once, `benchmarks.loops` as often as it runs. Fidelity is
the cosine with `jax.grad` in float32, of the layer where it is least; in bfloat16 beside backpropagation's own. Tokens
have standard deviation 0.5, as `gpt` draws them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.draw import BACKPROPAGATION, CENTERED, ONE_SIDED, dress, figure, save, ticks
from benchmarks.fidelity import compare
from benchmarks.loops import by_layer, flops_of
from benchmarks.measure import compile_program
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, at_most, find
from epjax import Network, models
from epjax.data import Window, open_text

NAME = "growth"
COLUMNS = (
    *("features", "depth", "context", "name", "precision", "beta", "batch_size"),
    *("flops_over_backprop", "memory_over_backprop", "cosine", "worst_layer_cosine", "repeats"),
)
BETA, BATCH, HEADS = 5e-4, 8, 4
DEPTHS, WIDTHS, CONTEXTS = (2, 4, 8, 16, 24), (64, 128, 256), (64, 128, 256)
METHODS = (Method(update="pgd"), Method(scheme="random", update="pgd"))


@dataclass(frozen=True)
class Size:
    """A transformer of `depth` blocks."""

    depth: int = 4
    features: int = 64
    context: int = 64


def sizes(quick: bool) -> list[Size]:
    """Each of the three grows alone."""
    if quick:
        return [Size(2, 16, 8)]
    grown = [Size(depth=n) for n in DEPTHS] + [Size(features=n) for n in WIDTHS] + [Size(context=n) for n in CONTEXTS]
    return list(dict.fromkeys(grown))


def network(size: Size, vocab: int, depth: int) -> Network:
    """The model with `depth` blocks in a run; 0 leaves the blocks out."""
    net = models.gpt(vocab, size.context, features=size.features, depth=max(depth, 1), heads=HEADS, stacked=True)
    return net if depth else Network((net.layers[0], net.layers[-1]))


def run(quick: bool) -> list[Row]:
    """Every size, in float32 and in bfloat16."""
    with jax.numpy_dtype_promotion("standard"):  # what flax's attention is written for
        return told(row for size in sizes(quick) for row in _rows(size))


def _batch(size: Size) -> tuple[int, np.ndarray, np.ndarray]:
    data, window = open_text("demo", size.context), Window(size.context)
    x, y = zip(*(window(data.train[i], np.random.default_rng(i)) for i in range(BATCH)), strict=True)
    return len(data.classes), np.stack(x), np.stack(y)


def _rows(size: Size) -> Iterator[Row]:
    vocab, x, y = _batch(size)
    net = network(size, vocab, size.depth)
    args = (net.init(jax.random.key(0), (size.context,)), x, y, jax.random.key(0))
    reference = compile_program(backprop(net), *args)
    gradient, work = by_layer(reference.run(*args)[1]), _flops(size, vocab, None)
    shared = {
        **{"features": size.features, "depth": size.depth, "context": size.context, "network": "gpt"},
        **{"batch_size": BATCH, "data": "demo text", "repeats": 1, "layers_count": net.depth},
    }
    for method in METHODS:
        program = compile_program(method.build(net, BETA), *args)
        yield {
            **shared,
            **method.row(),
            "beta": BETA,
            "flops_over_backprop": _flops(size, vocab, method) / work,
            "memory_over_backprop": program.memory / reference.memory,
            **compare(by_layer(program.run(*args)[1]), gradient),
        }
    costs: Row = {"flops_over_backprop": None, "memory_over_backprop": None, "precision": "bfloat16"}
    rounded = Method(update="pgd", precision="bfloat16")
    for name, beta, function in (
        ("backpropagation", None, backprop(net, "bfloat16")),
        (METHODS[0].name, BETA, rounded.build(net, BETA)),
    ):
        found = by_layer(jax.jit(function)(*args)[1])
        yield {**shared, **costs, "name": name, "beta": beta, **compare(found, gradient)}
    jax.clear_caches()


def _flops(size: Size, vocab: int, method: Method | None) -> float:
    return flops_of(size.depth, lambda depth: _counted(size, vocab, depth, method))


@cache
def _counted(size: Size, vocab: int, depth: int, method: Method | None) -> float:
    """XLA's count for `depth` blocks, each loop's body once."""
    net = network(size, vocab, depth)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), (size.context,)))
    x = y = jax.ShapeDtypeStruct((BATCH, size.context), np.int32)
    function = backprop(net) if method is None else method.build(net, BETA)
    return compile_program(function, params, x, y, jax.random.key(0)).flops


def targets(rows: list[Row]) -> list[Target]:
    """Cost and fidelity that do not fall with size; judged on the full range."""
    if {row["depth"] for row in rows} != set(DEPTHS):
        return []
    single = find(rows, precision="float32")
    worst = min(row["worst_layer_cosine"] for row in single)
    found = [at_least(f"worst layer, cosine, every size, beta {BETA:g}, float32", worst, 0.9999)]
    for method in METHODS:
        each = [row["flops_over_backprop"] for row in find(single, name=method.name)]
        found.append(at_most(f"FLOPs, {method.scheme}: largest over smallest size", max(each) / min(each), 1.2))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """Float32 with its cost; then bfloat16."""
    half = tuple(name for name in COLUMNS if not name.endswith("_over_backprop"))
    return [
        Table("Cost and fidelity, float32", COLUMNS, find(rows, precision="float32")),
        Table("Gradients in bfloat16 beside float32", half, find(rows, precision="bfloat16")),
    ]


def draw(rows: list[Row], path: Path) -> None:
    """Above FLOPs, below the worst layer, over depth, width and context."""
    single, base = find(rows, precision="float32"), Size()
    worst = 1 - min(row["worst_layer_cosine"] for row in single)
    title = f"A language model of any size: every layer's cosine with backpropagation is within {worst:.0e} of 1"
    what = f"gpt, one sweep, beta {BETA:g}, batch {BATCH}, float32 (drawn through) and bfloat16 (dashed); else {base}"
    fig, axes = figure(title, what, (2, 3), (13.0, 7.0))
    for k, quantity in enumerate(("depth", "features", "context")):
        others = {name: getattr(base, name) for name in ("depth", "features", "context") if name != quantity}
        for method, label, colour in zip(METHODS, ("centered", "one-sided"), (CENTERED, ONE_SIDED), strict=True):
            line = find(single, name=method.name, **others)
            at = [row[quantity] for row in line]
            look: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 3.5, "label": label}
            axes[0, k].plot(at, [row["flops_over_backprop"] for row in line], **look)
            axes[1, k].plot(at, [max(1 - row["worst_layer_cosine"], 1e-16) for row in line], **look)
        for name, label, colour in (
            ("backpropagation", "backpropagation, bfloat16", BACKPROPAGATION),
            (METHODS[0].name, "", CENTERED),
        ):
            line = find(rows, name=name, precision="bfloat16", **others)
            options: dict[str, Any] = {"color": colour, "linestyle": "--", "label": label or "centered, bfloat16"}
            axes[1, k].plot([r[quantity] for r in line], [1 - r["worst_layer_cosine"] for r in line], **options)
        axes[0, k].set_ylim(0, None)
        axes[1, k].set_yscale("log")
        dress(axes[0, k], "FLOPs", quantity, "multiple of backpropagation")
        dress(axes[1, k], "worst layer", quantity, "1 - cosine with float32 backpropagation", legend=k == 0)
        for ax in axes[:, k]:
            ticks(ax, {row[quantity] for row in find(rows, **others)} or {0})
    save(fig, path)
