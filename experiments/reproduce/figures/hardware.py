"""What must hardware be like? Four systems with read noise, few bits, mismatch and no time to settle.

784-128-10, the first 10,000 images, three epochs, three seeds (chips). Every error is that of the device itself,
without noise on its outputs. Beside centered EP stand the exact gradient of the same device, and weights that were
trained on the ideal system and then moved onto the device. A budget, measured before training, names the beta for each
noise. Published and to be tested: on resistive networks EP has a critical read noise that does not depend on the data
and grows with the square root of the reads (arXiv:2503.22810). (ours)
"""

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

import numpy as np

from epjax.runs.plots import dress
from epjax.style import GREY, INK
from epjax.style import SYSTEMS as LOOKS
from experiments.reproduce.built import SYSTEMS, Built, Fault, Setting, Way
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread, pick

NAME = "hardware"
TITLE = "What must hardware be like? EP on devices with noise, few bits and mismatch"
NOISE = (0.0, *(10 ** (-n / 2) for n in range(8, 1, -1)))
"""Read noise as a share of RMS: none, 1e-4 to 1e-1, two to a decade."""
BETAS = tuple(10 ** (n / 2) for n in range(-5, 2))
"""3.2e-3 to 3.2, two to a decade."""
FIXED = {"PCN": BETAS[3], "Hopfield": BETAS[4], "resistive": BETAS[5], "oscillators": BETAS[3]}
"""What the recipes of centered EP have, about."""
READS = 10
"""Averaged, they are one step of `NOISE`."""
BITS, CODES, SHARES, PASSES = (3, 4, 5, 6, 8), (4, 6, 8, 10, 12), (0.0, 0.25, 0.5, 1.0), (1, 2, 3, 5, 10)
LOST = 50.0
"""Percent of error at which a device is said not to learn: half-way from a good one to chance, about."""
WAYS: tuple[Way, ...] = ("EP", "exact", "moved", "tuned")


def cell(system: str, fault: Fault, beta: float | None, way: Way = "EP", dataset: str = "mnist") -> Built:
    """One device, all seeds."""
    place: dict[str, Any] = {"dataset": dataset, "system": system, "fault": fault.kind, "level": _3(fault.level)}
    place |= {"way": way, "beta": "budget" if beta is None else _3(beta)}
    place |= {"reads": fault.reads, "rounding": fault.rounding}
    return Built(place, Setting(system, dataset), fault, way, beta)


def of_system(system: str) -> list[Cell]:
    """Everything on MNIST."""
    fixed, found = FIXED[system], []
    found += [cell(system, Fault("mismatch", share), fixed, way) for share in SHARES for way in WAYS]
    for bits in BITS:
        for way, rounding in (("EP", "stochastic"), ("EP", "nearest"), ("exact", "stochastic"), ("moved", "nearest")):
            found.append(cell(system, Fault("weight bits", bits, rounding), fixed, way))  # type: ignore[arg-type]
    found += [cell(system, Fault("converter bits", bits), beta) for bits in CODES for beta in (fixed, None)]
    found += [cell(system, Fault("passes", passes), fixed) for passes in PASSES]
    found += [cell(system, Fault("read noise", sigma), beta) for sigma in NOISE for beta in (None, *BETAS)]
    found += [cell(system, Fault("read noise", sigma, reads=READS), fixed) for sigma in NOISE[1:]]
    return list(found)


def cells(quick: bool) -> list[Cell]:
    """System by system; then read noise on Fashion-MNIST."""
    if quick:
        setting = Setting("PCN", hidden=16, train_images=64, val_images=64, epochs=1)
        one = cell("PCN", Fault("mismatch", 1.0), FIXED["PCN"])
        return [Built(one.place, setting, one.fault, one.way, one.beta)]
    found = [c for system in SYSTEMS for c in of_system(system)]
    for system in SYSTEMS:
        for beta in BETAS[3:6] if system == "resistive" else (FIXED[system],):
            found += [cell(system, Fault("read noise", sigma), beta, dataset="fashion_mnist") for sigma in NOISE]
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """A map of noise and beta for each system; below, the other axes."""
    what = (
        "784-128-10, the first 10,000 images of MNIST, three epochs, mean of three seeds; centered EP on measured "
        "states. Line: the beta that the budget names before training"
    )
    figure, axes = canvas(
        "Trained in place by EP, devices bear what weights moved onto them do not", what, (2, 4), (13, 6.6)
    )
    for axis, system in zip(axes[0], SYSTEMS, strict=True):
        shown = _map(axis, results, system)
    figure.colorbar(shown, ax=axes[0].tolist(), label="test error (%)", pad=0.01)
    _axes(axes[1], results)
    save(figure, path)
    title = "The read noise that EP bears grows in proportion to beta"
    figure, axes = canvas(title, what, (1, 4), (13, 3.9))
    for axis, system in zip(axes[0], SYSTEMS, strict=True):
        shown = _map(axis, results, system)
    figure.colorbar(shown, ax=axes[0].tolist(), label="test error (%)", pad=0.01)
    save(figure, path.with_name("hardware_map.png"))


def _map(axis: Any, results: Sequence[Result], system: str) -> Any:
    found = grid(results, system)
    shown = axis.imshow(found, cmap="magma_r", vmin=10, vmax=90, aspect="auto", origin="lower")
    names = ["0", *(f"{sigma:.0e}".replace("e-0", "e-") if i % 2 else "" for i, sigma in enumerate(NOISE[1:], 1))]
    axis.set_xticks(range(len(NOISE)), names)
    axis.set_yticks(range(len(BETAS)), [f"{beta:.2g}" for beta in BETAS])
    budget = [pick(results, **on_mnist(system, "read noise"), level=_3(s), beta="budget", reads=1) for s in NOISE]
    best = [log10(r[0]["budget"]["best_beta"]) * 2 + 5 if r and "budget" in r[0] else np.nan for r in budget]
    axis.plot(range(len(NOISE)), best, color="white", linewidth=3)
    axis.plot(range(len(NOISE)), best, color=INK, linewidth=1.6, marker="o", markersize=3)
    axis.set_ylim(-0.5, len(BETAS) - 0.5)
    axis.spines[:].set_visible(False)
    label(axis, system, "read noise, share of RMS", "beta")
    return shown


def _axes(axes: Any, results: Sequence[Result]) -> None:
    series: dict[str, dict[str, dict[str, Any]]] = {
        "mismatch": {"EP": {"way": "EP"}, "exact gradient": {"way": "exact"}, "moved": {"way": "moved"}},
        "weight bits": {
            "EP": {"way": "EP", "rounding": "stochastic"},
            "nearest rounding": {"way": "EP", "rounding": "nearest"},
            "moved": {"way": "moved"},
        },
        "converter bits": {"EP": {"beta": "budget"}},
        "passes": {"EP": {}},
    }
    titles = {
        "mismatch": "mismatch: train where the chip is",
        "weight bits": "weight bits: round stochastically",
        "converter bits": "converter bits, beta of the budget",
        "passes": "passes of both phases",
    }
    styles = {"EP": "-", "exact gradient": ":", "moved": "--", "nearest rounding": "-."}
    for axis, (kind, lines) in zip(axes, series.items(), strict=True):
        for name, place in lines.items():
            for system in SYSTEMS:
                xs, ys = curve(results, system, kind, **place)
                axis.plot(
                    xs,
                    ys,
                    styles[name],
                    color=LOOKS[system].colour,
                    marker="o",
                    markersize=3,
                    label=f"{system}, {name}",
                )
        dress(axis)
        label(axis, titles[kind], kind, "test error (%)")
        axis.set_ylim(0, 105)
    shown, labels = axes[2].get_legend_handles_labels()
    axes[2].get_legend().remove()
    axes[3].legend(shown, [text.split(",")[0] for text in labels], frameon=False, fontsize=8, loc="upper right")
    for axis, names in ((axes[0], ("EP", "exact gradient", "moved")), (axes[1], ("EP", "nearest rounding", "moved"))):
        for name in names:
            axis.plot([], [], styles[name], color=GREY, label=name)
        kept = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend([kept[n] for n in names], names, frameon=False, fontsize=8, loc="upper right")


def on_mnist(system: str, fault: str) -> dict[str, Any]:
    """Coordinates."""
    return {"dataset": "mnist", "system": system, "fault": fault}


def _3(value: float) -> float:
    return float(f"{value:.3g}")


def curve(results: Sequence[Result], system: str, kind: str, **place: Any) -> tuple[list[float], list[float]]:
    """Mean error against the level."""
    found = pick(results, **on_mnist(system, kind), **place)
    pairs = sorted((r["place"]["level"], mean_spread(e)[0]) for r in found if (e := errors([r])))
    return [x for x, _ in pairs], [y for _, y in pairs]


def grid(results: Sequence[Result], system: str, dataset: str = "mnist") -> np.ndarray:
    """Mean error [betas, noise]; 90, chance, where no seed lived, NaN where nothing was run."""
    found = np.full((len(BETAS), len(NOISE)), np.nan)
    for i, beta in enumerate(BETAS):
        for j, sigma in enumerate(NOISE):
            place = {"dataset": dataset, "system": system, "fault": "read noise", "reads": 1}
            here = pick(results, **place, level=_3(sigma), beta=_3(beta))
            if here:
                found[i, j] = mean_spread(e)[0] if (e := errors(here)) else 90.0
    return found


def critical(line: Sequence[float]) -> float:
    """The read noise at which the error along `NOISE` crosses `LOST`, log-linear between levels; NaN: it does not."""
    for j in range(2, len(NOISE)):
        low, high = line[j - 1], line[j]
        if low < LOST <= high:
            share = (LOST - low) / (high - low)
            return float(10 ** (log10(NOISE[j - 1]) + share * (log10(NOISE[j]) - log10(NOISE[j - 1]))))
    return float("nan")


def slope(results: Sequence[Result], system: str, dataset: str = "mnist") -> tuple[float, list[str]]:
    """d log(critical noise) / d log(beta) over the betas that have one, and the pairs in words."""
    pairs = [(b, critical(line)) for b, line in zip(BETAS, grid(results, system, dataset), strict=True)]
    pairs = [(b, s) for b, s in pairs if np.isfinite(s)]
    told = [f"{s:.1e} at beta {b:.2g}" for b, s in pairs]
    if len(pairs) < 2:
        return float("nan"), told
    logs = np.log10(np.array(pairs))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]), told


def findings(results: Sequence[Result]) -> list[Finding]:
    """Mismatch, rounding, critical noise, reads, the budget."""
    return [_mismatch(results), _rounding(results), _critical(results), _reads(results), _budget(results)]


def _at(results: Sequence[Result], system: str, kind: str, level: float, **place: Any) -> float:
    found = errors(pick(results, **on_mnist(system, kind), level=level, **place))
    return mean_spread(found)[0] if found else 90.0


def _mismatch(results: Sequence[Result]) -> Finding:
    told, holds = [], True
    for system in SYSTEMS:
        ideal, in_place, moved, tuned = (
            _at(results, system, "mismatch", level, way=way)
            for level, way in ((0.0, "EP"), (1.0, "EP"), (1.0, "moved"), (1.0, "tuned"))
        )
        told.append(f"{system} {ideal:.1f} without, {in_place:.1f} / {moved:.1f} / {tuned:.1f}")
        holds &= in_place - ideal <= 3 and moved - in_place >= 10
    claim = "Trained in place by EP a device bears mismatch 1; weights trained on a model and moved do not (ours)"
    return Finding(claim, judged(holds), f"in place / moved / moved and trained on for an epoch: {'; '.join(told)}")


def _rounding(results: Sequence[Result]) -> Finding:
    told, holds = [], True
    for system in SYSTEMS:
        fewest = {}
        for rounding in ("stochastic", "nearest"):
            xs, ys = curve(results, system, "weight bits", way="EP", rounding=rounding)
            fewest[rounding] = next((x for x, y in zip(xs, ys, strict=True) if y < LOST / 2), float("inf"))
        told.append(f"{system} {fewest['stochastic']:g} against {fewest['nearest']:g}")
        holds &= fewest["nearest"] - fewest["stochastic"] >= 1
    claim = "Where a memory is all there is of the weights, stochastic rounding needs fewer bits than nearest (ours)"
    return Finding(claim, judged(holds), f"fewest bits of an error below {LOST / 2:g}%: {'; '.join(told)}")


def _critical(results: Sequence[Result]) -> Finding:
    power, told = slope(results, "resistive")
    other, on_fashion = slope(results, "resistive", "fashion_mnist")
    claim = "The read noise that EP bears on resistive networks is no constant: it grows in proportion to beta (ours)"
    evidence = f"MNIST: {', '.join(told)}, beta to the power {power:.2f}; Fashion-MNIST: {', '.join(on_fashion)}"
    more = f", to the power {other:.2f}" if np.isfinite(other) else ""
    return Finding(claim, judged(None if not np.isfinite(power) else 0.6 <= power <= 1.4), evidence + more)


def _reads(results: Sequence[Result]) -> Finding:
    """Ten reads at one noise are one read at the next smaller one."""
    differences = []
    for system in SYSTEMS:
        for j in range(2, len(NOISE)):
            place = {"way": "EP", "beta": _3(FIXED[system])}
            many = _at(results, system, "read noise", _3(NOISE[j]), reads=READS, **place)
            one = _at(results, system, "read noise", _3(NOISE[j - 1]), reads=1, **place)
            differences.append(many - one)
    typical = float(np.median(np.abs(differences)))
    claim = "The read noise that EP bears grows with the square root of the reads (arXiv:2503.22810)"
    evidence = f"{READS} reads against one at a noise sqrt({READS}) smaller: median difference {typical:.1f} points"
    return Finding(claim, judged(typical <= 2), evidence)


def _budget(results: Sequence[Result]) -> Finding:
    """What the beta of the budget costs beside the best of the map, where any beta learns."""
    told, worst = [], 0.0
    for system in SYSTEMS:
        best = np.nanmin(grid(results, system), axis=0)
        mine = [_at(results, system, "read noise", _3(s), beta="budget", reads=1) for s in NOISE]
        regrets = [m - b for m, b in zip(mine, best, strict=True) if b < LOST / 2]
        if regrets:
            told.append(f"{system} {np.mean(regrets):+.1f}, at most {max(regrets):+.1f}")
            worst = max(worst, *regrets)
    claim = "The budget, measured before training, names a beta that trains as well as the best (ours)"
    evidence = f"points of error over the best beta of the map, where that is below {LOST / 2:g}%: {'; '.join(told)}"
    return Finding(claim, judged(worst <= 5), evidence)
