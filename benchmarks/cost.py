"""What a step costs: the EP gradient against the backpropagation gradient of the same network, batch and precision.

FLOPs are XLA's, with loops counted as often as they run; memory is arguments + outputs + temporaries as XLA has laid
them out (a batch of 4 is mostly parameters; a batch of 32 mostly states); neither depends on the load of the machine.
Seconds are elapsed, for the gradient without the optimiser's update: EP and backpropagation run in turn in one
process, and the median of the paired ratios is given, with that of processor seconds beside it, which other work
on the machine moves less. Where `repeats` is 0 the program was compiled and counted, not run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

import epjax
from benchmarks.draw import GOLD, GREEN, GREY, INK, VIOLET, dress, figure, save
from benchmarks.measure import Program, Times, compile_program, paired_times, shapes, total_flops
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_most, find, only
from benchmarks.settings import Setting, at_initialisation
from epjax.network.precision import Precision

NAME = "cost"
COLUMNS = (
    "name",
    "network",
    "image_size",
    "batch_size",
    "traversal",
    "scheme",
    "iterations",
    "precision",
    "flops_over_backprop",
    "seconds_over_backprop",
    "cpu_seconds_over_backprop",
    "memory_over_backprop",
    "compile_seconds",
    "repeats",
)

SWEEP, RANDOM = Method(), Method(scheme="random")
SHARED = Method(signals="shared")
ASYNC = Method("async", 10)
IN_SEQUENCE = Method(phases="sequential")
TIMED = (SWEEP, SHARED, RANDOM, ASYNC)
COUNTED = (
    IN_SEQUENCE,
    Method(scheme="forward"),
    Method(products="own"),
    Method(iterations=2),
    Method(iterations=3),
    Method("async", 10, skip_unreached=False),
    Method("async", 10, scheme="random"),
)


@dataclass(frozen=True)
class Case:
    """Methods on one network at one batch size; `repeats` timed pairs, none: only counted."""

    setting: Callable[[], Setting]
    methods: tuple[Method, ...]
    batch_size: int
    repeats: int


def run(quick: bool) -> list[Row]:
    """One row a network, batch size and method."""
    return told(row for case in (QUICK if quick else CASES) for row in _case(case))


def _case(case: Case) -> Iterator[Row]:
    setting = case.setting()
    for precision in dict.fromkeys(method.precision for method in case.methods):
        yield from _rows(case, setting, precision, [m for m in case.methods if m.precision == precision])
        jax.clear_caches()


def _rows(case: Case, setting: Setting, precision: Precision, methods: list[Method]) -> Iterator[Row]:
    args = shapes(setting, case.batch_size)
    reference = compile_program(backprop(setting.net, precision), *args)
    for method in methods:
        program = compile_program(method.build(setting.net), *args)
        flops = total_flops(method, program, setting, args)
        times = _times(program, reference, setting, case.repeats) if case.repeats else None
        yield {
            **setting.row(),
            **method.row(),
            "batch_size": case.batch_size,
            "repeats": case.repeats,
            "flops": flops,
            "flops_over_backprop": flops / reference.flops,
            "memory_bytes": program.memory,
            "memory_over_backprop": program.memory / reference.memory,
            "temporaries_over_backprop": program.temporaries / reference.temporaries,
            "compile_seconds": program.compile_seconds,
            "backprop_compile_seconds": reference.compile_seconds,
            **_time_columns(times),
        }


def _times(program: Program, reference: Program, setting: Setting, repeats: int) -> Times:
    args = (setting.params, setting.x, setting.y, jax.random.key(0))
    return paired_times(lambda: program.run(*args), lambda: reference.run(*args), repeats)


def _time_columns(times: Times | None) -> Row:
    return {
        "seconds_over_backprop": times and times.ratio,
        "seconds_over_backprop_quartiles": times and list(times.quartiles),
        "cpu_seconds_over_backprop": times and times.cpu_ratio,
        "seconds": times and times.seconds,
        "backprop_seconds": times and times.reference_seconds,
    }


@cache
def _vgg10() -> Setting:
    return at_initialisation("VGG10", epjax.models.vgg10(1000), "imagenet", 224, 4, "gain 1")


def _vgg10_skip() -> Setting:
    return at_initialisation("VGG10Skip", epjax.models.vgg10_skip(1000), "imagenet", 224, 4, "gain 1")


def _vgg5() -> Setting:
    return at_initialisation("VGG5", epjax.models.vgg5(10), "cifar10", 32, 16, "gain 1")


def _narrow() -> Setting:
    net = epjax.models.vgg10(10, width=1 / 16, dense=64)
    return at_initialisation("VGG10 narrow", net, "imagenet", 64, 4, "gain 1")


CASES = (
    Case(_vgg10, TIMED, 4, 7),
    Case(_vgg10, COUNTED, 4, 0),
    Case(_vgg10, (SWEEP, IN_SEQUENCE, RANDOM, ASYNC), 32, 0),
    Case(_vgg10_skip, TIMED, 4, 0),
    Case(_vgg5, (SWEEP, RANDOM, Method("async", 5)), 16, 7),
    Case(_vgg5, (Method(precision="tf32"), Method(precision="bfloat16")), 16, 3),
)
QUICK = (Case(_narrow, (SWEEP, RANDOM), 4, 3),)


def targets(rows: list[Row]) -> list[Target]:
    """VGG10, 1000 classes, 224x224, batch 4, float32."""
    rows = find(rows, network="VGG10", batch_size=4, image_size=224)
    promised = [
        ("sweep1/centered", "flops", 2.05),
        ("sweep1/centered/shared signals", "flops", 1.75),
        ("sweep1/centered", "seconds", 1.8),
        ("sweep1/centered/shared signals", "seconds", 1.8),
        ("sweep1/random", "flops", 1.35),
        ("sweep1/random", "seconds", 1.3),
        ("async10/centered/all layers", "flops", 15.0),
        ("async10/centered", "flops", 12.0),
        ("sweep1/random", "memory", 1.2),
        ("sweep1/centered", "memory", 1.6),
        ("sweep1/centered/in sequence", "memory", 1.2),
    ]
    found = []
    for name, quantity, limit in promised:
        if row := only(rows, name=name):
            title = f"{name}: {quantity} over backpropagation"
            found.append(at_most(title, row[f"{quantity}_over_backprop"], limit))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """One table a network and batch size."""
    columns = tuple(c for c in COLUMNS if c not in ("network", "image_size", "batch_size", "traversal", "scheme"))
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["image_size"], row["batch_size"]), []).append(row)
    return [
        Table(f"{network}, {size}x{size}, batch {batch}", columns, group)
        for (network, size, batch), group in groups.items()
    ]


def in_words(name: str) -> str:
    """sweep1/centered/shared signals as a reader says it."""
    traversal, *rest = name.split("/")
    kind, count = traversal.rstrip("0123456789"), traversal.lstrip("abcdefghijklmnopqrstuvwxyz")
    passes = {"sweep": "one sweep" if count == "1" else f"{count} sweeps", "async": f"{count} even/odd iterations"}
    return ", ".join([passes.get(kind, traversal), *rest])


def draw(rows: list[Row], path: Path) -> None:
    """Bars of FLOPs, seconds and memory for the first network's methods that were timed."""
    first = rows[0]
    rows = find(rows, network=first["network"], batch_size=first["batch_size"], precision="float32")
    flops = {row["name"]: row["flops_over_backprop"] for row in rows}
    sweeps = [value for name, value in flops.items() if name.startswith("sweep1/")]
    title = f"An EP gradient by one sweep takes {min(sweeps):.2f} to {max(sweeps):.2f} of backpropagation's FLOPs"
    if published := flops.get("async10/centered/all layers"):
        title += f", as published {published:.1f}"
    rows = [row for row in rows if row["seconds_over_backprop"] is not None] or rows
    rows.sort(key=lambda row: row["flops_over_backprop"])
    what = f"{first['network']}, {first['image_size']}x{first['image_size']}, batch {first['batch_size']}, float32"
    fig, axes = figure(
        title,
        f"{what}; seconds: median of {first['repeats']} pairs",
        size=(9.6, 1.6 + 0.55 * len(rows)),
    )
    ax = axes[0, 0]
    names = [in_words(row["name"]) for row in rows]
    for i, (quantity, colour) in enumerate((("flops", VIOLET), ("seconds", GOLD), ("memory", GREEN))):
        values = [row[f"{quantity}_over_backprop"] for row in rows]
        label = {"flops": "FLOPs", "seconds": "seconds", "memory": "peak memory"}[quantity]
        places = [k + 0.27 * (i - 1) for k in range(len(rows))]
        ax.barh(places, [value or 0.0 for value in values], height=0.25, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            words = " not timed" if value is None else f" {value:.2f}"
            ax.annotate(words, (value or 0.0, place), va="center", fontsize=7, color=INK if value else GREY)
    ax.axvline(1, color=INK, linewidth=0.9, linestyle=":")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    dress(ax, x="multiple of backpropagation (dotted: 1)")
    ax.grid(False, axis="y")
    save(fig, path)
