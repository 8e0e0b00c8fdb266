"""How the nudged phase settles: energy and residual after every even/odd iteration and after every sweep.

One network in float64 (see the rows), both signs of beta, PGD and mod-PGD, each for a number of iterations of its own.
F - F(0) is the mean over examples, from recomputed errors. The residual is that of the layer updates,
r_k = h_k - update_k(h) with all layers at h: its largest entry, and the worst layer's ||r_k|| / ||eps_k||, of the worst
example unless it says median. `settled` is the share of examples whose residual has no entry above 1e-9. The projected
gradient h_k - proj(h_k - dF/dh_k) is the same for PGD. For mod-PGD it is not: where a_k < 0 < T_k mod-PGD holds a unit
at ReLU(a_k + T_k), whose dF/dh_k is not zero.

Away from kinks both ways settle: sweeps after two or three, even/odd after L iterations. An example with a unit on a
kink goes on between two states: its gate or its place in a max-pool window differs in the two, or it is held at zero,
where its error is -a_k instead of T_k and a full step overshoots. Each state is then off by what that unit passes down.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import sqrt
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

import epjax
from benchmarks.draw import CENTERED, EVEN_ODD, dress, figure, save
from benchmarks.methods import Method
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_most, find, text
from benchmarks.settings import Setting, at_initialisation
from epjax.network import Params, States
from epjax.perturbation import Nudge
from epjax.systems.pcn.energy import projected_gradient
from epjax.systems.pcn.problem import Problem, equilibrate, new_error
from epjax.systems.pcn.signals import free_phase, linearise, sum_signals
from epjax.systems.solution import relative

NAME = "equilibration"
COLUMNS = (
    "state",
    "beta",
    "update",
    "traversal",
    "iterations",
    "sign",
    "energy_difference",
    "residual",
    "median_residual",
    "relative_residual",
    "median_relative_residual",
    "settled",
    "projected_gradient",
)

ITERATIONS = {"async": (*range(1, 13), 14, 16, 20), "sweep": tuple(range(1, 9))}
GAINS = (("gain 1", 1.0), ("gain 2", 2.0), ("gain sqrt(6)", sqrt(6)))
BETAS = (0.05, 0.001)
EXAMPLES, SETTLED = 16, 1e-9

Measured = dict[str, Array]


def run(quick: bool) -> list[Row]:
    """One row a gain, beta, update, traversal, number of iterations and sign."""
    with jax.enable_x64(True):
        return told(_rows(quick))


def _rows(quick: bool) -> Iterator[Row]:
    iterations = {"sweep": (1, 2)} if quick else ITERATIONS
    settings = [_setting(state, gain, quick) for state, gain in (GAINS[1:2] if quick else GAINS)]
    for traversal, counts in iterations.items():
        for update in ("mod_pgd",) if quick else ("mod_pgd", "pgd"):
            for K in counts:
                method = Method(traversal, K, update=update, skip_unreached=False)  # type: ignore[arg-type]
                yield from _measure(method, settings, BETAS[1:] if quick else BETAS)
                jax.clear_caches()


def _setting(state: str, gain: float, quick: bool) -> Setting:
    if quick:
        return at_initialisation("MLP", epjax.models.mlp([32, 32, 10], gain=gain), "mnist", 28, 2, state)
    net = epjax.models.vgg10(20, width=1 / 8, dense=256, gain=gain)
    return at_initialisation("VGG10 width 1/8, dense 256", net, "tiny_imagenet", 64, EXAMPLES, state)


def _measure(method: Method, settings: list[Setting], betas: tuple[float, ...]) -> Iterator[Row]:
    params, x = _float64((settings[0].params, settings[0].x))
    solve = jax.jit(partial(_batch, settings[0], method)).lower(params, x, settings[0].y, jnp.zeros(2)).compile()
    for s in settings:
        params, x = _float64((s.params, s.x))
        for beta in betas:
            found = solve(params, x, s.y, jnp.array([beta, -beta]))
            for p, sign in enumerate("+-"):
                row = {**s.row(), **method.row(), "precision": "float64", "beta": beta, "sign": sign, "repeats": 1}
                yield {**row, **_summary({name: np.asarray(v[:, p]) for name, v in found.items()})}


def _summary(found: dict[str, np.ndarray]) -> Row:
    """Over the examples."""
    residual, relative_residual = found["residual"], found["relative_residual"]
    return {
        "energy_difference": float(np.mean(found["energy_difference"])),
        "residual": float(np.max(residual)),
        "median_residual": float(np.median(residual)),
        "relative_residual": float(np.max(relative_residual)),
        "median_relative_residual": float(np.median(relative_residual)),
        "settled": float(np.mean(residual <= SETTLED)),
        "projected_gradient": float(np.max(found["projected_gradient"])),
        "residuals": [float(f"{v:.3g}") for v in residual],
    }


def _batch(setting: Setting, method: Method, params: Params, x: Array, y: Array, betas: Array) -> Measured:
    """Each number [B, P] for betas [P]."""

    def one(x: Array, y: Array) -> Measured:
        free = free_phase(setting.net, params, x)
        return jax.vmap(lambda beta: _numbers(method, Problem(setting.net, params, free, _nudge(y, beta))))(betas)

    return jax.vmap(one)(x, y)


def _nudge(y: Array, beta: Array) -> Nudge:
    return Nudge(epjax.cost.cross_entropy, y, beta)


def _numbers(method: Method, problem: Problem) -> Measured:
    solution = equilibrate(problem, method.equilibration())
    assert solution.h is not None
    h = solution.h
    r, eps = _residual(method, problem, h)
    gradient = projected_gradient(problem.net, problem.total_energy, h)
    return {
        "energy_difference": problem.total_energy(h) - problem.perturbation.cost_term(problem.free.output),
        "residual": _largest(r),
        "relative_residual": jnp.max(jnp.stack([relative(r_k, e) for r_k, e in zip(r, eps, strict=True)])),
        "projected_gradient": _largest(gradient),
    }


def _residual(method: Method, problem: Problem, h: States) -> tuple[list[Array], list[Array]]:
    """(h_k - update_k(h), eps_k) for every layer, from the states alone."""
    net, states = problem.net, (problem.x, *h)
    layers = [linearise(net, problem.params, k, states) for k in range(1, len(net) + 1)]
    eps = [h_k - net.activation(k)(layer.a) for k, (h_k, layer) in enumerate(zip(h, layers, strict=True), 1)]
    T = sum_signals([layer.pull(e) for layer, e in zip(layers, eps, strict=True)])
    T[len(net)] = problem.perturbation.signal(h[-1])
    new: Callable[[int], Array] = lambda k: new_error(problem, method.update, k, layers[k - 1].a, T[k])  # noqa: E731
    return [e - new(k) for k, e in enumerate(eps, 1)], eps


def _largest(tensors: list[Array] | States) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(v)) for v in tensors]))


def _float64(tree: tuple[Params, Array]) -> tuple[Params, Array]:
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def targets(rows: list[Row]) -> list[Target]:
    """a narrow VGG10 in float64, beta = 0.001, gain 2: residual <= 1e-9 within 4 sweeps."""
    rows = find(rows, network="VGG10 width 1/8, dense 256", state="gain 2", beta=0.001, traversal="sweep", iterations=4)
    found = []
    for row in find(rows, update="mod_pgd"):
        title = f"float64, gain 2, beta {row['sign']}0.001, 4 sweeps: largest entry of the residual"
        least, settled = min(row["residuals"]), round(row["settled"] * row["batch_size"])
        note = (
            f"{settled} of {row['batch_size']} examples settle, the best at {text(least)}; others have a unit on a kink"
        )
        found.append(at_most(f"{title}, every example", row["residual"], SETTLED, note))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """One table a gain and beta."""
    columns = tuple(c for c in COLUMNS if c not in ("state", "beta"))
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["state"], row["beta"]), []).append(row)
    caption = f"{rows[0]['network']}, {rows[0]['data']}"
    return [Table(f"{caption}, {state}, beta {beta:g}", columns, group) for (state, beta), group in groups.items()]


STYLES = (("mod_pgd", "+", "-"), ("mod_pgd", "-", "--"), ("pgd", "+", ":"), ("pgd", "-", "-."))
SHOWN = (("gain 1", 0.05), ("gain 2", 0.05), ("gain sqrt(6)", 0.05), ("gain 2", 0.001))


def draw(rows: list[Row], path: Path) -> None:
    """Above: (F - F(0)) / |beta|, mean; below: the residual of every example."""
    cases = [case for case in SHOWN if find(rows, state=case[0], beta=case[1])]
    first = rows[0]
    fig, axes = figure(
        "Settling into the nudged equilibrium",
        f"{first['network']} at {first['image_size']}x{first['image_size']}, {first['batch_size']} images of "
        f"{first['data']}, float64. Above: energy, mean. Below: mod-PGD, +beta, a line for each image; those that stay "
        "up have a unit on a kink",
        (2, len(cases)),
        (max(9.6, 4.0 * len(cases)), 7.2),
    )
    for (state, beta), (energy, residual) in zip(cases, axes.T, strict=True):
        for traversal, colour, label in (("async", EVEN_ODD, "even/odd"), ("sweep", CENTERED, "sweeps")):
            lines = find(rows, state=state, beta=beta, traversal=traversal)
            for update, sign, style in STYLES:
                _draw_energy(
                    energy, find(lines, update=update, sign=sign), f"{label}, {update}, {sign}beta", colour, style
                )
            _draw_residuals(residual, find(lines, update="mod_pgd", sign="+"), label, colour)
        for ax in (energy, residual):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        residual.set_yscale("log")
        dress(energy, f"{state}, beta {beta:g}", "iterations or sweeps", "(F - F(0)) / |beta|", energy is axes[0, 0])
        dress(residual, "", "iterations or sweeps", "largest entry of h - update(h)", residual is axes[1, 0])
    save(fig, path)


def _draw_energy(ax: Axes, rows: list[Row], label: str, colour: str, style: str) -> None:
    if rows:
        values = [
            np.nan if row["energy_difference"] is None else row["energy_difference"] / row["beta"] for row in rows
        ]
        x = [0, *(row["iterations"] for row in rows)]
        ax.plot(x, [0, *values], color=colour, linestyle=style, linewidth=1.2, label=label.replace("_", "-"))


def _draw_residuals(ax: Axes, rows: list[Row], label: str, colour: str) -> None:
    for i in range(rows[0]["batch_size"] if rows else 0):
        values = [row["residuals"][i] for row in rows]
        x = [row["iterations"] for row in rows]
        ax.plot(x, values, color=colour, linewidth=0.8, alpha=0.7, label=None if i else label)
