"""F against the number of iterations for VGG10 on real ImageNet images, both signs, PGD and mod-PGD.

The paper's equilibration curves: F - F(0) rises from about K = L / 2 (the wave from the output), peaks, and settles
by K = L; the end may lie above the free state, since the nudged state is a critical point and no minimum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import epjax
from epjax.data import Dataset, train_batches
from epjax.network import Network, Params
from epjax.network.activation import Update
from epjax.runs.plots import dress
from epjax.style import EP, GOLD
from epjax.training.optimiser import sgd
from epjax.training.step import Normalise, initial_state, train_step
from experiments.reproduce.cell import Cell, Net, Result, forward_seconds
from experiments.reproduce.data import open_data
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, judged

NAME = "curves"
TITLE = "Equilibration curves: the total energy over even/odd iterations"
UPDATES: tuple[Update, ...] = ("mod_pgd", "pgd")
STATES = ("initialisation", "after training")
L = 10
HE = 6**0.5
"""At the paper's gain and at 2 nothing is learnt from so few images in so few steps; at the gain of He it is."""


@dataclass(frozen=True)
class Curve:
    """One network state: its curves for both updates and both signs."""

    state: str
    network: Net = field(default_factory=lambda: Net("vgg10", width=1 / 8, gain=HE, dense=512))
    dataset: str = "imagenet_sample"
    image_size: int = 224
    images: int = 16
    beta: float = 0.05
    iterations: int = 20
    steps: int = 150
    batch_size: int = 8
    learning_rate: float = 0.01
    seed: int = 0

    @property
    def place(self) -> Mapping[str, Any]:
        """The state."""
        return {"state": self.state}

    def identity(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)

    def forwards(self) -> float:
        """Training by one sweep, 7 forward passes an image; 4 curves of K iterations."""
        steps = self.steps if self.state == "after training" else 0
        return steps * self.batch_size * 7 + self.images * len(UPDATES) * 2 * 4 * self.iterations

    def forward_seconds(self) -> float:
        """Measured on this network."""
        return forward_seconds(self.network, self.image_size, 8)

    def run(self, folder: Path, data: Path) -> Result:
        """Trains where the state asks for it, then measures."""
        dataset = open_data(self.dataset, data, self.images)
        net = self.network.make(len(dataset.classes))
        params, costs = self._params(net, dataset)
        _, transform = dataset.transforms(self.image_size)
        examples = [dataset.train[i] for i in range(self.images)]
        x = Normalise(*dataset.stats)(jnp.stack([transform(e, np.random.default_rng(0)) for e in examples]))
        y = jnp.array([e.label for e in examples], jnp.int32)
        curves = {}
        for update in UPDATES:
            F = np.asarray(jax.jit(partial(self._energies, net, update))(params, x, y), np.float64)
            # The mean over images of (F - F(0)) / |beta|, for +beta and -beta; None: no number any more.
            change = ((F - F[..., :1]) / self.beta).mean(axis=0)
            curves[update] = {
                s: [float(v) if np.isfinite(v) else None for v in c] for s, c in zip("+-", change, strict=True)
            }
        jax.clear_caches()
        return {"evaluations": [], "diverged": None, "curves": curves, "costs": costs}

    def _energies(self, net: Network, update: Update, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        """F [B, 2, K + 1]."""
        equilibration = epjax.Async(self.iterations, update=update, trace=True)
        gradient = epjax.value_and_grad(
            net, epjax.cost.cross_entropy, beta=self.beta, equilibration=equilibration, errors="recomputed"
        )
        (_, aux), _ = gradient(params, x, y, None)
        assert aux.solution is not None
        assert aux.solution.energies is not None
        return aux.solution.energies

    def _params(self, net: Network, dataset: Dataset) -> tuple[Params, list[float]]:
        """The parameters of the state, and the mean costs of the first and the last ten steps of its training.

        It learns the images that are measured, unaugmented: a state far from the first one is what is wanted.
        """
        _, transform = dataset.transforms(self.image_size)
        state = initial_state(
            net.init(jax.random.key(self.seed), transform.shape), optimiser := sgd(self.learning_rate, 2e-4)
        )
        if self.state == STATES[0]:
            return state.params, []
        gradient = epjax.value_and_grad(net, epjax.cost.cross_entropy, beta=self.beta, equilibration=epjax.Sweep(1))
        step = train_step(gradient, optimiser, Normalise(*dataset.stats))
        costs = []
        with train_batches(dataset.train, transform, batch_size=self.batch_size, seed=self.seed) as batches:
            for batch in islice(batches, self.steps):
                state, metrics = step(state, {name: jnp.asarray(value) for name, value in batch.items()})
                costs.append(float(metrics["cost"]))
        return state.params, [float(np.mean(costs[:10])), float(np.mean(costs[-10:]))]


def cells(quick: bool) -> list[Cell]:
    """Before and after training."""
    if quick:
        small = Net("vgg10", width=1 / 64, gain=2.0, dense=16)
        return [Curve(STATES[0], small, image_size=32, images=2, iterations=3)]
    return [Curve(state) for state in STATES]


def draw(results: Sequence[Result], path: Path) -> None:
    """A panel a state."""
    c = results[0]["config"]
    what = (
        f"VGG10 of width {c['network']['width']:g}, gain {c['network']['gain']:.3g}, mean over {c['images']} real "
        f"ImageNet images at {c['image_size']}x{c['image_size']}, beta {c['beta']:g}, even/odd at full steps, float32"
    )
    what += "; a curve that leaves its picture diverges"
    settled = [_shape(r["curves"]["mod_pgd"][s]).settled for r in results for s in "+-"]
    title = f"By mod-PGD the energy has settled after K = L iterations in {sum(settled)} of {len(settled)} curves"
    figure, axes = canvas(title, what, (1, len(results)), (max(9.6, 5.2 * len(results)), 4.2))
    for ax, result in zip(axes[0], results, strict=True):
        for update, colour in zip(UPDATES, (EP, GOLD), strict=True):
            for sign, style in (("+", "-"), ("-", "--")):
                curve = [np.nan if v is None else v for v in result["curves"][update][sign]]
                ax.plot(
                    curve, color=colour, linestyle=style, linewidth=1.5, label=f"{update.replace('_', '-')}, {sign}beta"
                )
        dress(ax)
        ax.set_ylim(*_limits(result))
        costs = result["costs"]
        trained = f": cost {costs[0]:.2f} to {costs[1]:.2f} in {result['config']['steps']} steps" if costs else ""
        label(ax, result["place"]["state"] + trained, "K", "(F - F(0)) / |beta|")
    save(figure, path)


def _limits(result: Result) -> tuple[float, float]:
    """A picture's height: that of the curves that stay within ten times the quietest one."""
    curves = [[v for v in c if v is not None] for of_update in result["curves"].values() for c in of_update.values()]
    quiet = min(max(map(abs, c)) for c in curves)
    low, high = zip(*((min(c), max(c)) for c in curves if max(map(abs, c)) <= 10 * quiet), strict=True)
    margin = 0.08 * (max(high) - min(low)) or 1.0
    return min(low) - margin, max(high) + margin


def findings(results: Sequence[Result]) -> list[Finding]:
    """Whether the curves rise to a peak when the wave has passed, and whether they have settled by K = L."""
    found = []
    for result in results:
        curves = {sign: result["curves"]["mod_pgd"][sign] for sign in "+-"}
        if len(curves["+"]) <= L:
            continue
        shapes = [_shape(curve) for curve in curves.values()]
        state, of = result["place"]["state"], "mod-PGD, (F - F(0)) / |beta|; "
        notes = of + "; ".join(f"{sign}beta: {shape.words}" for sign, shape in zip(curves, shapes, strict=True))
        claims = {
            f"F - F(0) rises from about K = L / 2 to a peak before it settles, {state}": all(s.peaks for s in shapes),
            f"F has settled by K = L = {L}, {state}": all(s.settled for s in shapes),
        }
        found += [Finding(claim, judged(holds), notes) for claim, holds in claims.items()]
    return found + _pgd(results)


def _pgd(results: Sequence[Result]) -> list[Finding]:
    """PGD at full steps beside mod-PGD, which the paper prefers because PGD diverges in training."""
    shapes = {
        (r["place"]["state"], update, sign): _shape(r["curves"][update][sign])
        for r in results
        if len(r["curves"]["pgd"]["+"]) > L
        for update in UPDATES
        for sign in "+-"
    }
    if not shapes:
        return []
    lost = {where: shape for where, shape in shapes.items() if not shape.settled}
    notes = "; ".join(f"{where[0]}, {where[2]}beta: {s.words}" for where, s in lost.items() if where[1] == "pgd")
    holds = bool(notes) and all(where[1] == "pgd" for where in lost)
    claim = "There are states where PGD diverges and mod-PGD settles"
    return [Finding(claim, judged(holds), f"PGD, {notes}" if notes else "PGD settles everywhere here")]


@dataclass(frozen=True)
class _Shape:
    """What a curve does, in short."""

    peaks: bool
    settled: bool
    words: str


def _shape(curve: Sequence[float | None]) -> _Shape:
    if any(v is None for v in curve):
        return _Shape(False, False, "no number any more")
    F = np.array(curve, np.float64)
    span, top, rest = np.ptp(F), int(np.argmax(F)), float(np.abs(F[L:] - F[-1]).max())
    peaks = top >= L // 2 and F[top] > max(F[0], F[-1]) + 0.1 * span
    first = int(np.argmax(np.abs(F - F[0]) > 0.1 * span))
    words = f"moves from K = {first} on, greatest {F[top]:+.2g} at K = {top}, end {F[-1]:+.2g}"
    return _Shape(bool(peaks), bool(rest <= 0.1 * span), f"{words}, changes after K = {L} by {rest:.2g}")
