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
from epjax.activation import Update
from epjax.data import Dataset, train_batches
from epjax.network import Network, Params
from epjax.train import Normalise, initial_state, sgd, train_step
from experiments.plots import colours, dress
from experiments.reproduce.cell import Cell, Net, Result, forward_seconds
from experiments.reproduce.data import open_data
from experiments.reproduce.draw import canvas, label, save
from experiments.reproduce.figure import Finding, judged

NAME = "curves"
TITLE = "Equilibration curves: the total energy over even/odd iterations"
UPDATES: tuple[Update, ...] = ("mod_pgd", "pgd")
STATES = ("initialisation", "after training")
L = 10


@dataclass(frozen=True)
class Curve:
    """One network state: its curves for both updates and both signs."""

    state: str
    network: Net = field(default_factory=lambda: Net("vgg10", width=1 / 8, gain=2.0, dense=512))
    dataset: str = "imagenet_sample"
    image_size: int = 224
    images: int = 16
    beta: float = 0.05
    iterations: int = 20
    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 0.02
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
        dataset = open_data(self.dataset, data)
        net = self.network.make(len(dataset.classes))
        params, costs = self._params(net, dataset)
        _, transform = dataset.transforms(self.image_size)
        examples = [dataset.train[i] for i in np.random.default_rng(self.seed).permutation(len(dataset.train))]
        examples = examples[: self.images]
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
        """The parameters of the state, and the mean costs of the first and the last ten steps of its training."""
        transform, _ = dataset.transforms(self.image_size)
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
        f"VGG10 of width {c['network']['width']:g}, gain {c['network']['gain']:g}, mean over {c['images']} real "
        f"ImageNet images at {c['image_size']}x{c['image_size']}, beta {c['beta']:g}, even/odd at full steps, float32"
    )
    figure, axes = canvas(TITLE, what, (1, len(results)), (max(9.6, 5.2 * len(results)), 4.2))
    for ax, result in zip(axes[0], results, strict=True):
        for update, colour in zip(UPDATES, colours(len(UPDATES)), strict=True):
            for sign, style in (("+", "-"), ("-", "--")):
                curve = [np.nan if v is None else v for v in result["curves"][update][sign]]
                ax.plot(
                    curve, color=colour, linestyle=style, linewidth=1.5, label=f"{update.replace('_', '-')}, {sign}beta"
                )
        dress(ax)
        costs = result["costs"]
        trained = f": cost {costs[0]:.2f} to {costs[1]:.2f} in {result['config']['steps']} steps" if costs else ""
        label(ax, result["place"]["state"] + trained, "K", "(F - F(0)) / |beta|")
    save(figure, path)


def findings(results: Sequence[Result]) -> list[Finding]:
    """When the curves move, and whether they have settled by K = L."""
    found = []
    for result in results:
        if len(result["curves"]["mod_pgd"]["+"]) <= L:
            continue
        notes, holds = [], True
        for sign in "+-":
            curve = result["curves"]["mod_pgd"][sign]
            if any(v is None for v in curve):
                notes.append(f"{sign}beta: no number any more")
                holds = False
                continue
            F = np.abs(np.array(curve))
            peak, rest = int(np.argmax(F)), np.abs(np.array(curve[L:]) - curve[-1]).max()
            quiet = bool(rest <= 0.1 * F.max())
            holds &= quiet
            notes.append(
                f"{sign}beta: largest at K = {peak} ({curve[peak]:+.2g}), end {curve[-1]:+.2g}, "
                f"changes after K = {L} by {rest:.2g}"
            )
        found.append(
            Finding(
                f"F changes from about K = L / 2 and has settled by K = L = {L}, {result['place']['state']}",
                judged(holds),
                "mod-PGD, (F - F(0)) / |beta|; " + "; ".join(notes),
            )
        )
    return found
