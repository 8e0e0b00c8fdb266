"""Which beta and which scheme should be the default: one sweep, carried errors, beside backpropagation.

Two settings. (a) VGG5 of width 1/8 on CIFAR-10 at a learning rate at the edge of stability, where a run may die: its
cost falls back to chance and stays there. Death is luck, so many seeds count deaths. (b) VGG10 of width 1/4 on 20
classes of Tiny ImageNet, five epochs, where every run lives and its error counts. (ours)
"""

from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

from epjax.runs.config import Gradient, Optimiser
from epjax.runs.plots import dress
from epjax.style import BACKPROPAGATION, EP, VIOLET
from experiments.reproduce.cell import Cell, Images, Net, Result, Training, training
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, errors, judged, mean_spread, pick

NAME = "defaults"
TITLE = "Defaults: how strong a nudge, which signs"
BETAS = (0.05, 5e-3, 5e-4, 5e-5)
METHODS = ("bp", *(f"{scheme} {beta:g}" for scheme in ("centered", "random") for beta in BETAS))
EDGE, SAFE, LONG = "cifar10, rate 0.04", "cifar10, rate 0.02", "tiny_imagenet_20"
SEEDS = {EDGE: (0, 1, 2, 3, 4), SAFE: (0, 1, 2), LONG: (0, 1, 2)}
STEPS, LOG_EVERY, LAST = 320, 10, 40
CHANCE = log(10)
DEAD = 0.97 * CHANCE
"""Mean cost of the last 40 steps from which on a run is counted as dead: it has learnt nothing that stayed."""
REACHED = 1.8
"""The cost whose first step is compared."""
LOWEST = "bfloat16"


def gradient(method: str, precision: Any = "float32") -> Gradient:
    """The estimator called `method`: bp, or a scheme and its beta."""
    if method == "bp":
        return Gradient(algorithm="bp", traversal="sweep", precision=precision)
    scheme, beta = method.split()
    return Gradient(scheme=scheme, beta=float(beta), traversal="sweep", precision=precision)  # type: ignore[arg-type]


def at_the_edge(setting: str, method: str, seed: int, quick: bool, precision: str = "float32") -> Training:
    """Setting (a): 320 steps of 64 among 10,000 images at a constant rate; each phase has its own product."""
    rate = float(setting.rsplit(" ", 1)[1])
    place = {"setting": setting, "method": method, "precision": precision, "seed": seed}
    asked = gradient(method, precision)
    cell = training(
        place,
        seed,
        eval_every=3,
        gradient=replace(asked, products="own") if method.startswith("centered") else asked,
        optimiser=Optimiser(3, 0, 64, learning_rate=rate, final_learning_rate=rate, weight_decay=3e-4),
        network=Net("vgg5", 1 / 64 if quick else 1 / 8, gain=2.0),
        images=Images("cifar10", 64 if quick else 10_000, 64 if quick else 5_000),
    )
    return limited(cell, 2 if quick else STEPS, 1 if quick else LOG_EVERY)


def in_full(method: str, seed: int) -> Training:
    """Setting (b): five epochs with the cosine."""
    place = {"setting": LONG, "method": method, "precision": "float32", "seed": seed}
    optimiser = Optimiser(5, 0, 64, learning_rate=0.02, final_learning_rate=2e-6, weight_decay=2e-4, cosine="step")
    images = Images(LONG, 10_000, None, 64)
    network = Net("vgg10", 1 / 4, gain=2.0)
    cell = training(place, seed, gradient=gradient(method), optimiser=optimiser, network=network, images=images)
    return limited(cell, None, LOG_EVERY)


def limited(cell: Training, max_steps: int | None, log_every: int) -> Training:
    """The cell with training lines every `log_every` steps, ended after `max_steps`."""
    run = replace(cell.config.run, max_steps=max_steps, log_every=log_every)
    return replace(cell, config=replace(cell.config, run=run))


def cells(quick: bool) -> list[Cell]:
    """Setting (a) first, seed by seed, so that a part of the grid compares all methods."""
    if quick:
        return [at_the_edge(EDGE, method, 0, quick) for method in METHODS[:2]]
    found: list[Cell] = []
    for setting in (EDGE, SAFE):
        found += [at_the_edge(setting, method, seed, quick) for seed in SEEDS[setting] for method in METHODS]
    found += [at_the_edge(EDGE, m, seed, quick, LOWEST) for seed in SEEDS[EDGE] for m in ("bp", "random 0.0005")]
    return found + [in_full(method, seed) for seed in SEEDS[LONG] for method in METHODS]


def last_cost(result: Result) -> float:
    """Mean cost of the last 40 steps; infinite where the run diverged."""
    lines = result["training"]
    if result["diverged"] or not lines:
        return float("inf")
    last = [line["cost"] for line in lines if line["step"] > lines[-1]["step"] - LAST]
    return sum(last) / len(last)


def is_dead(result: Result) -> bool:
    """Whether a run of setting (a) ended at chance, or as no number."""
    return last_cost(result) > DEAD


def steps_to(result: Result, cost: float = REACHED) -> int | None:
    """The first training line whose mean cost is below `cost`."""
    return next((line["step"] for line in result["training"] if line["cost"] < cost), None)


def draw(results: Sequence[Result], path: Path) -> None:
    """Left: last costs of every seed of (a), deaths at the top. Right: errors of (b)."""
    what = "last-40-step cost of every seed; a cross: at chance or diverged. Right: validation error after five epochs"
    figure, axes = canvas(TITLE, f"one sweep, carried errors, float32; {what}", (1, 3), (13, 4.6))
    for axis, setting in zip(axes[0], (EDGE, SAFE, LONG), strict=True):
        for x, method in enumerate(METHODS):
            found = pick(results, setting=setting, method=method, precision="float32")
            if setting == LONG:
                values, lost = errors(found), []
            else:
                values = [last_cost(r) for r in found if not is_dead(r)]
                lost = [r for r in found if is_dead(r)]
            axis.plot([x] * len(values), values, "o", color=_colour(method), markersize=4)
            if lost:
                at = [x + 0.1 * i for i in range(len(lost))]
                top = axis.get_xaxis_transform()
                axis.plot(at, [1.0] * len(lost), "x", color=_colour(method), transform=top, clip_on=False)
        dress(axis)
        axis.set_xlim(-0.6, len(METHODS) - 0.4)
        axis.set_xticks(range(len(METHODS)), METHODS, rotation=60, ha="right")
        label(axis, setting, "", "top-1 error (%)" if setting == LONG else "cost")
    save(figure, path)


def _colour(method: str) -> str:
    return {"bp": BACKPROPAGATION, "centered": EP, "random": VIOLET}[method.split()[0]]


def findings(results: Sequence[Result]) -> list[Finding]:
    """Who dies, who ends lower, who is as good in full."""
    alive = {(r["place"]["setting"], r["place"]["seed"]) for r in pick(results, method="bp") if not is_dead(r)}

    def deaths(method: str) -> int:
        found = [r for r in pick(results, method=method, precision="float32") if r["place"]["setting"] != LONG]
        return sum(is_dead(r) for r in found if (r["place"]["setting"], r["place"]["seed"]) in alive)

    count = {method: deaths(method) for method in METHODS[1:]}
    small = [m for m in METHODS[1:] if float(m.split()[1]) <= 5e-4]
    full = {m: errors(results, setting=LONG, method=m) for m in METHODS}
    if not full["bp"]:
        return []
    bp, noise = mean_spread(full["bp"])
    near = {m: mean_spread(full[m])[0] - bp for m in small if full[m]}
    reached = {
        m: [s for r in pick(results, setting=EDGE, method=m, precision="float32") if (s := steps_to(r))]
        for m in METHODS
    }
    return [
        Finding(
            "EP at beta 5e-4 or below never dies where backpropagation lives (ours)",
            judged(not any(count[m] for m in small)),
            "deaths: " + ", ".join(f"{m}: {n}" for m, n in count.items()),
        ),
        Finding(
            "EP at beta 5e-4 or below ends as low as backpropagation on Tiny ImageNet, 20 classes (ours)",
            judged(all(d <= max(noise, 0.3) for d in near.values())),
            f"backpropagation {bp:.1f} ± {noise:.1f}; " + ", ".join(f"{m} {d:+.1f}" for m, d in near.items()),
        ),
        Finding(
            f"EP needs no more steps to a cost of {REACHED} at rate 0.04 (ours)",
            "not testable at this size"
            if not all(reached.values())
            else judged(min(mean_spread(reached[m])[0] for m in small) <= mean_spread(reached["bp"])[0] * 1.1),
            ", ".join(f"{m} {mean_spread(v)[0]:.0f} ({len(v)} seeds)" for m, v in reached.items() if v),
        ),
    ]
