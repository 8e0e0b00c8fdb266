"""An ordinary causal transformer, trained by EP and by backpropagation on the same characters with the same AdamW.

113 thousand parameters, context 64, tiny Shakespeare (the last tenth is for validation), 1,500 steps of 16 windows,
three seeds; one sweep at beta 5e-4, errors carried. (ours)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from epjax.runs.plots import dress
from epjax.style import looks
from experiments.reproduce.cell import Cell, Result
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, judged, mean_spread, pick
from experiments.reproduce.text import Gradient, Text, Writer

NAME = "text"
TITLE = "Text: a causal transformer trained by EP"
METHODS: tuple[Gradient, ...] = get_args(Gradient)
SEEDS = (0, 1, 2)
ROUNDING = 1e-8
"""Nearer than this a cosine in float32 says nothing."""


def cells(quick: bool) -> list[Cell]:
    """Seed by seed."""
    writer = Writer(length=8, features=8, depth=1, steps=20, warmup=2, windows=4) if quick else Writer()
    return [
        Text({"gradient": method, "seed": seed}, writer, method, seed)
        for seed in (SEEDS[:1] if quick else SEEDS)
        for method in METHODS
    ]


def last(results: Sequence[Result], method: str, what: str = "val_bits") -> list[float]:
    """The last value of the runs that lived."""
    return [r["evaluations"][-1][what] for r in pick(results, gradient=method) if not r["diverged"]]


def draw(results: Sequence[Result], path: Path) -> None:
    """Bits over steps, a line a seed; how near the gradient is to backpropagation's."""
    what = "113 thousand parameters, context 64, tiny Shakespeare, AdamW, three seeds, one sweep, beta 5e-4"
    title = "A causal transformer learns text by EP as by backpropagation"
    figure, axes = canvas(title, what, (1, 2), (10, 4))
    for method, look in zip(METHODS, looks(METHODS), strict=True):
        for i, r in enumerate(pick(results, gradient=method)):
            steps = [line["step"] for line in r["evaluations"]]
            for axis, name in zip(axes[0], ("val_bits", "cosine"), strict=True):
                values = [
                    line[name] if name == "val_bits" else max(1 - line[name], ROUNDING) for line in r["evaluations"]
                ]
                if name == "val_bits" or method != "backpropagation":
                    shown = method if i == 0 else None
                    axis.plot(steps, values, **look.of_line(), linewidth=1.4, label=shown)
    for axis in axes[0]:
        dress(axis)
    axes[0][1].set_yscale("log")
    label(axes[0][0], "validation", "step", "bits per character")
    label(axes[0][1], "1 - cosine with backpropagation: rounding of float32", "step", "")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """EP within one pooled standard deviation of backpropagation; its gradient stays near."""
    told = {method: mean_spread(found) for method in METHODS if (found := last(results, method))}
    mean, spread = told.get("backpropagation", (float("nan"), 0.0))
    mine = {method: told.get(method, (float("inf"), 0.0)) for method in METHODS if method != "backpropagation"}
    pooled = {method: ((s**2 + spread**2) / 2) ** 0.5 for method, (_, s) in mine.items()}
    holds = all(m - mean <= pooled[method] for method, (m, _) in mine.items())
    nearest = min((r["cosine"] for x in results for r in x["evaluations"]), default=float("nan"))
    parts = ", ".join(f"{method} {m:.3f} ± {s:.3f}" for method, (m, s) in told.items())
    return [
        Finding(
            "A causal transformer learns text by one sweep of EP as by backpropagation (ours)",
            judged(holds),
            f"bits per character: {parts}; the gradient's cosine with backpropagation's was never below {nearest:.5f}",
        )
    ]
