"""What low precision does to the EP gradient, with carried errors and with errors recomputed as a difference of states.

Products in float32, TF32 (operands rounded to 10 mantissa bits, the same on every device) or bfloat16; parameters,
states and sums stay float32. Two distances: from float32 backpropagation, and from float32 EP of the same method,
the latter beside what the same precision does to backpropagation (`over_backprop`: their ratio).
"""

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path

import jax
import jax.numpy as jnp

import epjax
from benchmarks.draw import GOLD, GREEN, VIOLET, dress, figure, save, ticks
from benchmarks.fidelity import compare
from benchmarks.gradients import estimator
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_most, find
from benchmarks.settings import Setting, at_initialisation
from epjax.network import Params

NAME = "precision"
COLUMNS = (
    "network",
    "state",
    "name",
    "errors",
    "precision",
    "beta",
    "cosine",
    "worst_layer_cosine",
    "relative_error",
    "error_of_precision",
    "backprop_error_of_precision",
    "over_backprop",
    "repeats",
)

PRECISIONS = ("float32", "tf32", "bfloat16")
BETAS = (0.05, 0.005, 0.0005, 0.00005)
METHODS = tuple(
    Method(scheme=scheme, errors=errors)  # type: ignore[arg-type]
    for scheme in ("centered", "forward")
    for errors in ("carried", "recomputed")
)
ITERATIONS = (Method("async", 10), Method("async", 10, errors="recomputed"))
GAIN_1, GAIN_HE = "gain 1", "gain sqrt(6)"


def run(quick: bool) -> list[Row]:
    """One row a setting, method, beta and precision."""
    return told(_measure(_mlp(), METHODS[:2], BETAS[1:3]) if quick else _vgg10())


def _vgg10() -> Iterator[Row]:
    for gain, state in ((1.0, GAIN_1), (sqrt(6), GAIN_HE)):
        setting = at_initialisation("VGG10", epjax.models.vgg10(1000, gain=gain), "imagenet", 224, 4, state)
        yield from _measure(setting, METHODS, BETAS)
        yield from _measure(setting, ITERATIONS, BETAS[2:3])


def _mlp() -> Setting:
    return at_initialisation("MLP", epjax.models.mlp([64, 64, 10]), "mnist", 28, 8, GAIN_1)


def _measure(setting: Setting, methods: tuple[Method, ...], betas: tuple[float, ...]) -> Iterator[Row]:
    args = (setting.params, setting.x, setting.y, jax.random.key(0))
    bp = {p: jax.jit(backprop(setting.net, p))(*args)[1] for p in PRECISIONS}  # type: ignore[arg-type]
    loss = {p: compare(bp[p], bp["float32"])["relative_error"] for p in PRECISIONS}
    for method in methods:
        exact: dict[float, Params] = {}
        for precision in PRECISIONS:
            chosen = replace(method, precision=precision)  # type: ignore[arg-type]
            ep = estimator(chosen, setting)
            for beta in betas:
                gradient = ep(jnp.float32(beta), *args)
                exact.setdefault(beta, gradient)
                mine = compare(gradient, exact[beta])["relative_error"]
                yield {
                    **setting.row(),
                    **chosen.row(),
                    "beta": beta,
                    "repeats": 1,
                    **compare(gradient, bp["float32"]),
                    "error_of_precision": mine,
                    "backprop_error_of_precision": loss[precision],
                    "over_backprop": mine / loss[precision] if loss[precision] else None,
                }
        jax.clear_caches()


def targets(rows: list[Row]) -> list[Target]:
    """bfloat16 EP is no further from float32 EP than 1.5 times what it is for backpropagation."""
    rows = find(rows, network="VGG10", precision="bfloat16", errors="carried")
    return [
        at_most(
            f"{row['name']}, {row['state']}, beta {row['beta']:g}: bfloat16's error over that in backpropagation",
            row["over_backprop"],
            1.5,
        )
        for row in rows
        if row["traversal"] == "sweep"
    ]


def tables(rows: list[Row]) -> list[Table]:
    """One table a state and errors."""
    columns = tuple(c for c in COLUMNS if c not in ("network", "state", "errors"))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["state"], row["errors"]), []).append(row)
    name = rows[0]["network"]
    return [Table(f"{name}, {state}, {errors} errors", columns, group) for (state, errors), group in groups.items()]


def draw(rows: list[Row], path: Path) -> None:
    """Distance from float32 backpropagation over beta: carried errors drawn through, recomputed ones dotted."""
    first = rows[0]
    panels = [
        (state, scheme)
        for state in dict.fromkeys(row["state"] for row in rows)
        for scheme in dict.fromkeys(row["scheme"] for row in rows)
    ]
    fig, axes = figure(
        "Carried errors survive low precision",
        f"{first['network']}, {first['image_size']}x{first['image_size']}, batch {first['batch_size']}, {first['data']}"
        ", one sweep; drawn through: carried errors, dotted: recomputed; thin: the same precision in backpropagation",
        (1, len(panels)),
        (max(9.6, 3.9 * len(panels)), 4.8),
    )
    for ax, (state, scheme) in zip(axes[0], panels, strict=True):
        for precision, colour in zip(PRECISIONS, (VIOLET, GOLD, GREEN), strict=True):
            for errors, style in (("carried", "-"), ("recomputed", ":")):
                line = find(rows, state=state, scheme=scheme, precision=precision, errors=errors, traversal="sweep")
                if line:
                    ax.plot(
                        [row["beta"] for row in line],
                        [row["relative_error"] for row in line],
                        style,
                        color=colour,
                        marker="o",
                        markersize=3,
                        label=precision if errors == "carried" else None,
                    )
            level = find(rows, state=state, precision=precision)[0]["backprop_error_of_precision"]
            if level:
                ax.axhline(level, color=colour, linewidth=0.7, alpha=0.7)
        ax.set(xscale="log", yscale="log")
        ticks(ax, [row["beta"] for row in rows])
        title = f"{scheme}, {state}"
        dress(ax, title, "beta", "distance from float32 backpropagation", legend=ax is axes[0, 0])
    save(fig, path)
