"""Peers measured beside epjax: predictive coding's and Dual Propagation's own code on the same work.

Each peer runs in its own environment, made by the command from one table (`benchmarks/peers/table.py`), through a short
adapter that calls its own step: the same float32 weights, images and mean cross-entropy, one run, one machine.
FLOPs, temporaries and seconds are multiples of plain jax backpropagation of the same network in the same process and
version of jax; seconds are medians of runs in turn. FLOPs are XLA's, loops counted as often as they run. Cosines are
with `jax.grad` at initialisation, of the whole gradient and of the worst layer. A peer that cannot be had, or cannot
express a network, is a row that says why. None was tuned here: settings are those of each peer's own examples, but for
FabricPC (the defaults of its class) and Dual Propagation (one pass down at beta 1, our choice: its scripts make 8 to 16
of another kind). error_based_PC is held against torch's backpropagation, its FLOPs are those of products.

`--peers DIR` takes checkouts DIR/NAME (a space is an underscore) where a machine cannot reach their addresses.
With --quick nothing is installed.
"""

import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

import epjax
from benchmarks.draw import CENTERED, GREEN, VIOLET, dress, figure, save
from benchmarks.peers import environment, ours
from benchmarks.peers.cases import cases
from benchmarks.peers.harness import Case, measure
from benchmarks.peers.table import PEERS
from benchmarks.progress import told
from benchmarks.rows import Row, Table, find
from benchmarks.settings import dataset

NAME = "peers"
COLUMNS = (
    *("network", "peer", "version", "method", "flops_over_backprop", "seconds_over_backprop"),
    *("least_seconds_over_backprop", "temporaries_over_backprop", "cosine", "worst_layer_cosine", "compile_seconds"),
    *("framework", "why"),
)
REPEATS = 5


def run(quick: bool, peers: Path | None = None, minutes: float | None = None) -> list[Row]:
    """epjax, then every peer, on every network. `peers`: a folder of checkouts; `minutes`: nothing is begun after."""
    end = time.monotonic() + 60 * minutes if minutes else inf
    return told(row for case in cases(quick) for row in _case(case, quick, peers, end))


def _case(case: Case, quick: bool, checkouts: Path | None, end: float) -> Iterator[Row]:
    repeats = 2 if quick else REPEATS
    data = dataset("cifar10" if case.x.ndim == 4 else "mnist").name
    about = {"network": case.name, "batch_size": len(case.x), "data": data, "precision": "float32", "repeats": repeats}
    framework = f"jax {jax.__version__}"
    over = [{"why": "left out: the minutes were over"}]
    for row in over if time.monotonic() > end else measure(case, ours.steps(case), repeats):
        yield _row(about, "epjax", epjax.__version__, {**row, "framework": framework})
    jax.clear_caches()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        case.save(path)
        for peer in PEERS:
            why = [{"why": "not to be had in a quick run, which installs nothing"}]
            left = end - time.monotonic()
            for row in why if quick else environment.run(peer, path, repeats, checkouts, left):
                yield _row(about, peer.name, peer.version, row)


def _row(about: Row, peer: str, version: str, measured: dict[str, Any]) -> Row:
    empty: Row = dict.fromkeys(COLUMNS)
    return {**empty, **about, "peer": peer, "version": version, "name": peer, **measured}


def tables(rows: list[Row]) -> list[Table]:
    """One for each network, and what is left out, with the reason."""
    names = dict.fromkeys(row["network"] for row in rows)
    there = [row for row in rows if row["why"] is None]
    columns = tuple(name for name in COLUMNS if name not in ("network", "why"))
    found = [Table(name, columns, find(there, network=name)) for name in names]
    missing = [row for row in rows if row["why"] is not None]
    return [*found, Table("Left out", ("network", "peer", "why"), missing)] if missing else found


def draw(rows: list[Row], path: Path) -> None:
    """FLOPs against the worst layer's distance from jax.grad, a panel a network."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    there = [row for row in rows if row["why"] is None]
    best = min(1 - row["worst_layer_cosine"] for row in find(there, peer="epjax"))
    title = "Gradients near backpropagation's at the least work" if best < 1e-3 else "Work and fidelity"
    what = "FLOPs over plain jax backpropagation and worst layer's cosine, at initialisation, float32"
    fig, axes = figure(title, what, (1, len(names)), (3.6 * len(names) + 1.2, 4.6))
    marks = dict(zip(("epjax", *(peer.name for peer in PEERS)), "osD^vP", strict=True))
    for ax, name in zip(axes[0], names, strict=True):
        for row in find(there, network=name):
            distance = max(1 - row["worst_layer_cosine"], 1e-7)
            colour = CENTERED if row["peer"] == "epjax" else GREEN if row["peer"] == "Dual Propagation" else VIOLET
            if row["flops_over_backprop"] is not None:
                ax.plot(row["flops_over_backprop"], distance, marks[row["peer"]], color=colour, label=row["peer"])
        ax.set(xscale="log", yscale="log")
        dress(ax, name, "FLOPs, multiple of backpropagation", "1 - cosine of the worst layer", legend=False)
        ax.minorticks_off()
        ticks = [1, 2, 4, 8, 16, 32]
        ax.set_xticks(ticks, [str(t) for t in ticks])
    handles = {h.get_label(): h for ax in axes[0] for h in ax.get_lines()}
    axes[0, 0].legend(handles.values(), handles.keys(), frameon=False, fontsize=7)
    save(fig, path)
