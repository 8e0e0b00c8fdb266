"""Cost and fidelity against depth: L layers of one width, from 6 to 64.

The networks are L - 1 convolutions 3x3 of 16 channels without pooling and a dense layer, gain sqrt(6) so that signals
keep their size, on images of 16x16. One sweep costs the same at any depth; even/odd needs K = L / 2 iterations with
carried errors and K = L with recomputed ones, so its cost grows with depth: FLOPs count its loop as often as it runs,
on all layers in every iteration. Fidelity is against `jax.grad`: float32 at the beta of the row (a deep plain network
bends within a nudge of 5e-4, and less within one of 5e-6), and float64 at a beta that is as good as zero, one iteration
before L / 2 and L and at them.
"""

import warnings
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.draw import CENTERED, EVEN_ODD, GOLD, GREY, LIGHT, ONE_SIDED, VIOLET, dress, figure, save, ticks
from benchmarks.fidelity import compare
from benchmarks.measure import compile_program, paired_times, shapes, total_flops
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_most, find
from benchmarks.settings import Setting, at_initialisation
from epjax import Layer, Network
from epjax.network.activation import identity, relu
from epjax.network.drive import Conv, Dense

NAME = "depth"
COLUMNS = (
    "layers_count",
    "name",
    "iterations",
    "errors",
    "precision",
    "beta",
    "flops_over_backprop",
    "seconds_over_backprop",
    "memory_over_backprop",
    "cosine",
    "worst_layer_cosine",
    "relative_error",
    "repeats",
)

DEPTHS = (6, 10, 16, 32, 64)
CHANNELS, SIZE, BATCH = 16, 16, 8
BETA, SMALL_BETA, TINY_BETA = 0.0005, 5e-6, 1e-6


def run(quick: bool) -> list[Row]:
    """For every depth: one sweep, centered and random; even/odd with K = L; what K = L / 2 and K = L leave out."""
    return told(row for L in ((4, 6) if quick else DEPTHS) for row in _depth(L, quick))


def _depth(L: int, quick: bool) -> Iterator[Row]:
    yield from _costs(L, repeats=2 if quick else 15, iterations=not quick)
    if not quick:
        yield from _exactness(L)
    jax.clear_caches()


def stack(L: int) -> Network:
    """L - 1 equal convolutions and a dense output."""
    convs = [Layer(Conv(CHANNELS, gain=sqrt(6), fan="fan_out"), relu) for _ in range(L - 1)]
    return Network((*convs, Layer(Dense(10, gain=sqrt(6)), identity)))


def setting(L: int) -> Setting:
    """The stack on real images; classes are taken modulo 10."""
    s = at_initialisation(f"conv{L}", stack(L), "imagenet", SIZE, BATCH, "gain sqrt(6)")
    return Setting(s.network, s.state, s.net, s.params, s.x, s.y % 10, s.data)


def _costs(L: int, repeats: int, iterations: bool) -> Iterator[Row]:
    s = setting(L)
    args = (s.params, s.x, s.y, jax.random.key(0))
    reference = compile_program(backprop(s.net), *args)
    gradient = reference.run(*args)[1]
    asked = [(Method(), BETA), (Method(), SMALL_BETA), (Method(scheme="random"), BETA)]
    asked += [(Method("async", L, skip_unreached=False), BETA)] if iterations else []
    for method, beta in asked:
        program = compile_program(method.build(s.net, beta), *args)
        times = paired_times(_calling(program.run, args), _calling(reference.run, args), repeats)
        yield {
            **s.row(),
            **method.row(),
            "beta": beta,
            "flops_over_backprop": total_flops(method, program, s, shapes(s)) / reference.flops,
            "seconds_over_backprop": times.ratio,
            "seconds_over_backprop_quartiles": list(times.quartiles),
            "cpu_seconds_over_backprop": times.cpu_ratio,
            "memory_over_backprop": program.memory / reference.memory,
            "repeats": repeats,
            **compare(program.run(*args)[1], gradient),
        }


def _calling(function: Callable[..., object], args: tuple[object, ...]) -> Callable[[], object]:
    return lambda: function(*args)


def _exactness(L: int) -> Iterator[Row]:
    with jax.enable_x64(True):
        s = setting(L)
        args = (*_float64((s.params, s.x)), s.y, jax.random.key(0))
        gradient = jax.jit(backprop(s.net))(*args)[1]
        for errors in ("carried", "recomputed"):
            for K in (L // 2 - 1, L // 2, L - 1, L):
                method = Method("async", K, errors=errors, skip_unreached=False)  # type: ignore[arg-type]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="iterations=")  # too few are what is looked at
                    found = jax.jit(method.build(s.net, TINY_BETA))(*args)[1]
                row = {**s.row(), **method.row(), "precision": "float64", "beta": TINY_BETA, "repeats": 1}
                yield {**row, **compare(found, gradient)}


def _float64(tree: tuple[object, Array]) -> tuple[object, Array]:
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def targets(rows: list[Row]) -> list[Target]:
    """the cost of one sweep does not depend on depth, within 5%; judged on the full range of depths."""
    found = []
    for name in ("sweep1/centered", "sweep1/random"):
        line = find(rows, name=name, beta=BETA)
        if {row["layers_count"] for row in line} != set(DEPTHS):
            continue
        for quantity in ("flops", "seconds"):
            values = [row[f"{quantity}_over_backprop"] for row in line]
            middle, spread = float(np.mean(values)), float(np.max(values) - np.min(values)) / 2
            title = f"{name}: largest deviation of {quantity} over depth 6 to 64, share of the middle"
            found.append(at_most(title, spread / (middle or 1.0), 0.05))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """Cost with fidelity at the row's beta; then what too few iterations leave out."""
    cost, exact = find(rows, precision="float32"), find(rows, precision="float64")
    less = (
        "layers_count",
        "iterations",
        "errors",
        "cosine",
        "worst_layer_cosine",
        "relative_error",
        "precision",
        "beta",
    )
    found = [Table("Cost and fidelity", COLUMNS, cost)]
    return [*found, Table("Even/odd in float64: what K leaves out", less, exact)] if exact else found


def draw(rows: list[Row], path: Path) -> None:
    """FLOPs and worst layer over depth; relative error of even/odd just before and at L / 2 and L."""
    first = rows[0]
    exact = find(rows, precision="float64")
    what = f"3x3 convolutions of {CHANNELS} channels at {SIZE}x{SIZE}, batch {BATCH}, {first['data']}"
    fig, axes = figure(finding(rows), what, (1, 3 if exact else 2), (14.0, 4.8))
    cost, fidelity = axes[0, :2]
    for name, beta, label, colour in (
        ("sweep1/centered", BETA, "one sweep, centered", CENTERED),
        ("sweep1/centered", SMALL_BETA, f"one sweep, centered, beta {SMALL_BETA:g}", LIGHT),
        ("sweep1/random", BETA, "one sweep, random sign", ONE_SIDED),
        ("async", BETA, "even/odd, K = L, centered", EVEN_ODD),
    ):
        line = [row for row in find(rows, precision="float32", beta=beta) if row["name"].startswith(name)]
        if line:
            depths = [row["layers_count"] for row in line]
            options = {"color": colour, "label": label, "marker": "o", "markersize": 3.5}
            fidelity.plot(depths, [1 - row["worst_layer_cosine"] for row in line], **options)
            if beta == BETA:  # which touches no cost
                seconds = [row["seconds_over_backprop"] for row in line]
                cost.plot(depths, [row["flops_over_backprop"] for row in line], **options)
                cost.plot(depths, seconds, color=colour, linestyle=":", linewidth=1)
    cost.plot([], [], color=GREY, linestyle=":", linewidth=1, label="dotted: seconds")
    cost.set(xscale="log", yscale="log")
    fidelity.set(xscale="log", yscale="log")
    dress(cost, "FLOPs", "layers L", "multiple of backpropagation")
    dress(fidelity, f"worst layer, float32, beta {first['beta']:g}", "layers L", "1 - cosine with backpropagation")
    if exact:
        _draw_exactness(axes[0, 2], exact)
    for ax in axes[0]:
        ticks(ax, [row["layers_count"] for row in rows])
    cost.set_yticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    save(fig, path)


def finding(rows: list[Row]) -> str:
    """What the picture says: of the cost, and of the worst layer of the deepest network at either beta."""
    line = find(rows, name="sweep1/centered", precision="float32")
    deepest = max(row["layers_count"] for row in line)
    parts = [
        f"{row['worst_layer_cosine']:.4f} at beta {row['beta']:g}" for row in line if row["layers_count"] == deepest
    ]
    return f"One sweep costs the same at any depth; {deepest} layers: worst layer's cosine {', '.join(parts)}"


def _draw_exactness(ax: object, rows: list[Row]) -> None:
    for errors, share, before, colour, style in (
        ("carried", 2, 1, GOLD, ":"),
        ("carried", 2, 0, GOLD, "-"),
        ("recomputed", 1, 1, VIOLET, ":"),
        ("recomputed", 1, 0, VIOLET, "-"),
    ):
        line = [r for r in find(rows, errors=errors) if r["iterations"] == r["layers_count"] // share - before]
        K = f"K = L{' / 2' if share == 2 else ''}{' - 1' if before else ''}"
        depths, values = [r["layers_count"] for r in line], [r["relative_error"] for r in line]
        ax.plot(depths, values, style, color=colour, marker="o", markersize=3.5, label=f"{errors} errors, {K}")  # type: ignore[attr-defined]
    ax.set(xscale="log", yscale="log")  # type: ignore[attr-defined]
    dress(ax, f"even/odd, float64, beta {TINY_BETA:g}", "layers L", "||EP - BP|| / ||BP||")  # type: ignore[arg-type]
