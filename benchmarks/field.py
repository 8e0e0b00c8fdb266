"""Depth against the field, 4 to 256 layers: what a gradient costs, and how near its worst layer is to backpropagation.

Two networks of width 128 on MNIST, at initialisation: plain dense layers with ReLU, gain sqrt(6), and residual ones
with the scalings of muPC (`epjax.models.residual_mlp`, GELU). One sweep, even/odd with K = 10 and K = L, inference
learning (IL, T = 20) and error optimisation (ePC, T = 5, both of `epjax.pc` at its rate, 0.1). A cosine is that of the
layer where it is least, with `jax.grad` in float32: the median of 3 draws of weights and images, and the least of them.
bfloat16 is of products, and stands beside backpropagation's own. IL clamps the output: it is held against
backpropagation of squared error, all others have cross-entropy.

F counts XLA's FLOPs over backpropagation's, of layers one by one, a loop's body as often as it runs. Every layer adds
the same to such a program: those of 0, 2 and 3 hidden layers say what deep ones cost. The gradients of sweeps are of
stacked layers (`epjax.Repeat`), whose F stands beside. The fifth table is one sweep at 64 layers, over beta.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, sqrt
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from warnings import catch_warnings, filterwarnings

import flax.linen as nn
import jax
import numpy as np

from benchmarks import depth
from benchmarks.draw import (
    BACKPROPAGATION,
    CENTERED,
    EVEN_ODD,
    GREEN,
    INK,
    LIGHT,
    ONE_SIDED,
    VIOLET,
    dress,
    figure,
    save,
    ticks,
)
from benchmarks.fidelity import compare
from benchmarks.loops import QUICKLY, Count, by_layer, count, flops_of
from benchmarks.methods import Method, at_precision, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, at_most, find, only, text
from benchmarks.settings import Setting, at_initialisation
from epjax import Network, Repeat, models
from epjax.cost import Cost, cross_entropy, squared_error
from epjax.network.precision import Precision
from epjax.pc import error_optimisation_value_and_grad, inference_learning_value_and_grad
from epjax.systems.system import ValueAndGrad

NAME = "field"
COLUMNS = (
    *("network", "layers_count", "name", "precision", "beta", "batch_size", "flops_over_backprop"),
    *("stacked_flops_over_backprop", "worst_layer_cosine", "least_worst_layer_cosine", "cosine"),
    *("compile_seconds", "repeats", "why"),
)
DEPTHS, SHOWN = (4, 8, 16, 32, 64, 128, 256), (4, 32, 256)
WIDTH, BATCH, SEEDS = 128, 32, 3
BETA, SMALL_BETA = 5e-4, 5e-6
BETAS, AT = (5e-3, 5e-4, 5e-5, 5e-6, 5e-7), 64
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
PLAIN, MUPC, MUPC_RELU, CONVOLUTIONS = "plain", "muPC", "muPC, ReLU", "plain, convolutions"


def network(kind: str, L: int, stacked: bool = True) -> Network:
    """L layers, hidden ones of one width; of convolutions those of `benchmarks.depth`."""
    if kind == CONVOLUTIONS:
        first, *hidden, last = depth.stack(L).layers
        return Network((first, Repeat(hidden[0], len(hidden)), last))  # type: ignore[arg-type]
    if kind == PLAIN:
        return models.mlp([WIDTH] * (L - 1) + [10], gain=sqrt(6), stacked=stacked)
    phi = nn.relu if kind == MUPC_RELU else nn.gelu
    return models.residual_mlp(WIDTH, L, 10, scaling="mupc", phi=phi, stacked=stacked)


@dataclass(frozen=True)
class Way:
    """A way to a gradient: `build` takes a network and its number of layers L.

    Its loop runs `iterations(L)` times, over layers one by one; a way without a loop takes them stacked. Above
    `deepest` layers it is not run, `why` says the reason; in bfloat16 ways with a loop are not run above HALF.
    """

    name: str
    build: Callable[[Network, int], ValueAndGrad]
    iterations: Callable[[int], int] | None = None
    beta: float | None = None
    cost: Cost = cross_entropy
    deepest: float = inf
    why: str = ""

    def left_out(self, L: int, precision: Precision) -> str | None:
        """Why it is not run at L layers, or None."""
        if self.deepest < L:
            return self.why
        if self.iterations and precision != "float32" and L > HALF:
            return "left out above 32 layers: programs of every layer by itself take up to a minute each to compile"
        return None


HALF = 32
BACKPROP, ONE, SMALL, RANDOM = "backpropagation", "one sweep", "one sweep, small beta", "one sweep, random sign"
TEN, ALL, IL, EPC = "even/odd, K = 10", "even/odd, K = L", "IL, T = 20", "ePC, T = 5"


def _estimated(net: Network, method: Method, beta: Any) -> ValueAndGrad:
    return replace(method, precision=net.precision).build(net, beta)


def _even_odd(net: Network, K: int) -> ValueAndGrad:
    return _estimated(net, Method("async", K, skip_unreached=False), BETA)


UNREACHED = "left out: {} reach {} layers, the gradient of those below is zero"
WAYS = (
    Way(ONE, lambda net, L: _estimated(net, Method(), BETA), beta=BETA),
    Way(SMALL, lambda net, L: _estimated(net, Method(), SMALL_BETA), beta=SMALL_BETA),
    Way(RANDOM, lambda net, L: _estimated(net, Method(scheme="random"), BETA), beta=BETA),
    Way(
        TEN,
        lambda net, L: _even_odd(net, 10),
        lambda L: 10,
        BETA,
        deepest=64,
        why=UNREACHED.format("10 iterations", 20),
    ),
    Way(ALL, _even_odd, lambda L: L, BETA),
    Way(
        IL,
        lambda net, L: inference_learning_value_and_grad(net, steps=20),
        lambda L: 20,
        cost=squared_error,
        deepest=64,
        why=UNREACHED.format("20 steps", 21),
    ),
    Way(EPC, lambda net, L: error_optimisation_value_and_grad(net, cross_entropy, steps=5), lambda L: 5),
)
QUICK = (ONE, ALL)


def run(quick: bool) -> list[Row]:
    """Every way at every depth and precision; then one sweep over beta."""
    return told(_quick() if quick else _full())


def _full() -> Iterator[Row]:
    for kind in (PLAIN, MUPC):
        for L in DEPTHS:
            yield from _depth(kind, L, WAYS, SEEDS)
            jax.clear_caches()
    for kind in (CONVOLUTIONS, PLAIN, MUPC_RELU, MUPC):
        yield from _betas(kind, AT, SEEDS)


def _quick() -> Iterator[Row]:
    ways = [way for way in WAYS if way.name in QUICK]
    for kind, L in ((PLAIN, 4), (PLAIN, 8), (MUPC, 8)):
        yield from _depth(kind, L, ways, 1)
    yield from _betas(PLAIN, 8, 1)


def setting(kind: str, L: int, seed: int) -> Setting:
    """The network on real images, its labels modulo 10."""
    data, size, batch = ("imagenet", depth.SIZE, depth.BATCH) if kind == CONVOLUTIONS else ("mnist", 28, BATCH)
    s = at_initialisation(kind, network(kind, L), data, size, batch, "initialisation", seed)
    return Setting(s.network, s.state, s.net, s.params, s.x, s.y % 10, s.data)


Settings = list[Setting]


def _depth(kind: str, L: int, ways: Sequence[Way], seeds: int) -> Iterator[Row]:
    settings = [setting(kind, L, seed) for seed in range(seeds)]
    references = {cost: _exact(settings, cost) for cost in dict.fromkeys(way.cost for way in ways)}
    for precision in PRECISIONS:
        row, found = _row(settings, BACKPROP, precision), references[cross_entropy]
        if precision == "float32":
            row["flops_over_backprop"] = 1.0
        else:
            found, row["compile_seconds"] = _gradients(backprop(network(kind, L), precision), settings)
        yield {**row, **_nearness(found, references[cross_entropy])}
        for way in ways:
            row = {**_row(settings, way.name, precision), "beta": way.beta, "why": way.left_out(L, precision)}
            if precision == "float32":
                row |= _cost(kind, L, way, stacked=seeds > 1)
            if row["why"] is None:
                with catch_warnings():
                    filterwarnings("ignore", message="iterations=")  # too few are what is looked at
                    function = way.build(at_precision(network(kind, L), precision), L)
                    found, row["compile_seconds"] = _gradients(function, settings)
                row |= _nearness(found, references[way.cost])
            yield row


def _row(settings: Settings, name: str, precision: Precision) -> Row:
    s, empty = settings[0], dict.fromkeys(COLUMNS)
    about = {"name": name, "precision": precision, "layers_count": s.net.depth, "repeats": len(settings)}
    return {**empty, **s.row(), **about, "study": "depth"}


def _gradients(function: Callable[..., Any], settings: Settings) -> tuple[list[Any], float]:
    """Those of each setting, and the seconds to trace and compile."""
    args = [(s.params, s.x, s.y, jax.random.key(0)) for s in settings]
    start = perf_counter()
    program = jax.jit(function).lower(*args[0]).compile(compiler_options=QUICKLY)
    seconds = perf_counter() - start
    return [by_layer(program(*each)[1]) for each in args], seconds


def _exact(settings: Settings, cost: Cost) -> list[Any]:
    return _gradients(backprop(settings[0].net, cost=cost), settings)[0]


def _nearness(gradients: list[Any], references: list[Any]) -> Row:
    """Medians over the draws, and the least worst layer of all."""
    found = [compare(g, r) for g, r in zip(gradients, references, strict=True)]
    medians = {name: median(each[name] for each in found) for name in ("cosine", "worst_layer_cosine")}
    return {**medians, "least_worst_layer_cosine": min(each["worst_layer_cosine"] for each in found)}


def _cost(kind: str, L: int, way: Way, stacked: bool) -> Row:
    """F of layers one by one; of sweeps also `stacked`."""
    row = {"flops_over_backprop": _flops(kind, L, way, False) / _flops(kind, L, None, False)}
    if stacked and way.iterations is None:
        row["stacked_flops_over_backprop"] = _flops(kind, L, way, True) / _flops(kind, L, None, True)
    return row


def _flops(kind: str, L: int, way: Way | None, stacked: bool) -> float:
    """Of a network of L layers; without a way, of backpropagation."""
    if way is None or way.iterations is None:
        return flops_of(L - 2, lambda n: _counted(kind, n + 2, way, stacked).once)
    times = way.iterations(L)
    return flops_of(L - 2, lambda n: _counted(kind, n + 2, way, stacked).running(times))


@cache
def _counted(kind: str, L: int, way: Way | None, stacked: bool) -> Count:
    net = network(kind, L, stacked)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), (28, 28, 1)))
    x, y = jax.ShapeDtypeStruct((BATCH, 28, 28, 1), np.float32), jax.ShapeDtypeStruct((BATCH,), np.int32)
    function = backprop(net) if way is None else way.build(net, L + 1)  # one iteration would be no loop
    return count(function, params, x, y, jax.random.key(0))


def _betas(kind: str, L: int, seeds: int) -> Iterator[Row]:
    """One centered sweep; beta is an argument of one program."""
    settings = [setting(kind, L, seed) for seed in range(seeds)]
    references, args = _exact(settings, cross_entropy), [(s.params, s.x, s.y, jax.random.key(0)) for s in settings]
    sweep = jax.jit(lambda beta, *args: _estimated(settings[0].net, Method(), beta)(*args)[1], compiler_options=QUICKLY)
    for beta in BETAS:
        found = [by_layer(sweep(np.float32(beta), *each)) for each in args]
        yield {**_row(settings, ONE, "float32"), "beta": beta, "study": "beta", **_nearness(found, references)}


def targets(rows: list[Row]) -> list[Target]:
    """What deep networks are to cost and keep; judged on the full range of depths."""
    found: list[Target] = []
    if {row["layers_count"] for row in find(rows, study="depth")} != set(DEPTHS):
        return found
    for kind in (PLAIN, MUPC):
        line = find(rows, study="depth", network=kind)
        for way, title, limit in ((ONE, "centered", 1.8), (RANDOM, "one-sided", 1.5)):
            F = [row["flops_over_backprop"] for row in find(line, name=way, precision="float32")]
            note = "its errors are projected: each phase has its own pass down" if kind == PLAIN else ""
            found.append(at_most(f"{kind}: F of one sweep, {title}, every depth", max(F), limit, note))
            spread = (max(F) - min(F)) / (max(F) + min(F))
            note = "less where shallow: layer 1 costs as much as by backpropagation"
            found.append(at_most(f"{kind}: F of one sweep, {title}: half its range over 4 to 256", spread, 0.05, note))
        ratios = [_beside(line, L) for L in DEPTHS]
        title = f"{kind}: worst layer in bfloat16, 1 - cosine over backpropagation's, every depth"
        found.append(at_most(title, max(ratios), 1.1))
    (deepest,) = find(rows, study="depth", network=MUPC, layers_count=256, name=ONE, precision="float32")
    title = f"{MUPC}: worst layer, cosine, one sweep, 256 layers, least of 3 draws"
    return [*found, at_least(title, deepest["least_worst_layer_cosine"], 0.9999)]


def _beside(line: list[Row], L: int) -> float:
    ep, bp = (only(line, layers_count=L, name=name, precision="bfloat16") for name in (ONE, BACKPROP))
    assert ep is not None
    assert bp is not None
    return float((1 - ep["worst_layer_cosine"]) / (1 - bp["worst_layer_cosine"]))


def tables(rows: list[Row]) -> list[Table]:
    """A line for each way, shallow to deep; beta; every row; what is left out."""
    over_depth = find(rows, study="depth")
    found = [
        _summary(find(over_depth, network=kind, precision=precision), f"{kind}, {precision}")
        for kind in (PLAIN, MUPC)
        for precision in PRECISIONS
    ]
    betas = ("network", "layers_count", "beta", "worst_layer_cosine", "least_worst_layer_cosine", "data", "batch_size")
    there, missing = find(over_depth, why=None), [row for row in over_depth if row["why"]]
    found += [Table("One sweep, centered, over beta, float32", betas, find(rows, study="beta"))]
    found += [Table("Every depth", COLUMNS[:-1], there)]
    left = ("network", "layers_count", "name", "precision", "why")
    return [*found, Table("Left out", left, missing)] if missing else found


def _summary(line: list[Row], caption: str) -> Table:
    depths = [L for L in SHOWN if find(line, layers_count=L)]
    rows: list[Row] = []
    for name in dict.fromkeys(row["name"] for row in line):
        row: Row = {"": name, "beta": find(line, name=name)[0]["beta"]}
        for L in depths:
            one = only(line, name=name, layers_count=L) or {}
            row |= {f"worst_at_{L}": one.get("worst_layer_cosine"), f"F_at_{L}": one.get("flops_over_backprop")}
        rows.append(row)
    columns = ("", "beta", *(f"worst_at_{L}" for L in depths), *(f"F_at_{L}" for L in depths))
    return Table(caption, columns, rows)


LOOKS: dict[str, dict[str, Any]] = {
    BACKPROP: {"color": BACKPROPAGATION, "linestyle": "--", "zorder": 5},
    ONE: {"color": CENTERED, "linewidth": 2.2},
    SMALL: {"color": LIGHT, "linewidth": 2.2},
    RANDOM: {"color": ONE_SIDED},
    TEN: {"color": EVEN_ODD, "linestyle": ":"},
    ALL: {"color": EVEN_ODD},
    IL: {"color": GREEN, "linestyle": "-."},
    EPC: {"color": VIOLET, "linestyle": "-."},
}
LEAST = 1e-14


def draw(rows: list[Row], path: Path) -> None:
    """The worst layer over depth, above in float32, below in bfloat16; on the right F, and beta at 64 layers."""
    line = find(rows, study="depth")
    what = f"width {WIDTH}, MNIST, batch {BATCH}, at initialisation, median of {line[0]['repeats']} draws; "
    what += f"one sweep centered at beta {BETA:g} and {SMALL_BETA:g}; random sign and even/odd at {BETA:g}"
    fig, axes = figure(finding(rows), what, (2, 3), (14.0, 8.4))
    for j, kind in enumerate((PLAIN, MUPC)):
        for i, precision in enumerate(PRECISIONS):
            ax, each = axes[i, j], find(line, network=kind, precision=precision)
            each = [row for row in each if row["precision"] != "float32" or row["name"] != BACKPROP]  # the reference
            _lines(ax, each, lambda row: _distance(row["worst_layer_cosine"]))
            ax.set(ylim=(LEAST / 3, 4) if precision == "float32" else (1e-6, 4))
            title = "plain layers, ReLU" if kind == PLAIN else "residual layers, muPC"
            dress(ax, f"{title}: worst layer, {precision}", "layers", "1 - cosine with float32 backpropagation")
            ticks(ax, [row["layers_count"] for row in each])
    costs = [
        row for row in find(line, network=PLAIN, precision="float32") if row["name"] != SMALL
    ]  # beta costs nothing
    _lines(axes[0, 2], costs, lambda row: row["flops_over_backprop"])
    dress(axes[0, 2], "cost of a gradient, plain layers", "layers", "F, multiple of backpropagation")
    ticks(axes[0, 2], [row["layers_count"] for row in line])
    places = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    axes[0, 2].set_yticks(places, [str(v) for v in places])
    _draw_betas(axes[1, 2], find(rows, study="beta"))
    for ax in axes.ravel()[[0, 1, 2, 3, 4]]:
        if shown := ax.get_legend():
            shown.remove()
    handles = {h.get_label(): h for h in axes[0, 0].get_lines()}
    handles |= {h.get_label(): h for h in axes[1, 0].get_lines()}
    fig.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    save(fig, path)


def _distance(cosine: float | None) -> float | None:
    """1 - cosine, as a logarithmic axis can show it."""
    return None if cosine is None else max(1 - cosine, LEAST)


def _lines(ax: Any, rows: list[Row], value: Callable[[Row], float | None]) -> None:
    for name, look in LOOKS.items():
        each = [(row["layers_count"], value(row)) for row in find(rows, name=name)]
        if shown := [(L, v) for L, v in each if v is not None]:
            ax.plot(*zip(*shown, strict=True), marker="o", markersize=3.5, label=name, **look)
    ax.set(xscale="log", yscale="log")


def _draw_betas(ax: Any, rows: list[Row]) -> None:
    looks = {CONVOLUTIONS: (LIGHT, "--"), PLAIN: (CENTERED, "-"), MUPC_RELU: (INK, ":"), MUPC: (INK, "-")}
    for kind, (colour, style) in looks.items():
        if each := find(rows, network=kind):
            betas, values = [row["beta"] for row in each], [_distance(row["worst_layer_cosine"]) for row in each]
            ax.plot(betas, values, style, color=colour, marker="o", markersize=3.5, label=kind)
    ax.set(xscale="log", yscale="log", ylim=(LEAST / 3, 4))
    dress(ax, f"one sweep over beta, {rows[0]['layers_count']} layers, float32", "beta", "1 - cosine, worst layer")
    ax.set_xticks(BETAS, [text(beta) for beta in BETAS])
    ax.minorticks_off()


def finding(rows: list[Row]) -> str:
    """What the picture says of the deepest networks."""
    line = find(rows, study="depth", precision="float32")
    deepest = max(row["layers_count"] for row in line)

    def of(kind: str, name: str) -> Row:
        return only(line, network=kind, name=name, layers_count=deepest) or {}

    plain, residual = of(PLAIN, ONE), of(MUPC, ONE)
    near, away = plain["worst_layer_cosine"], max(1 - residual["worst_layer_cosine"], 1e-16)
    small = of(PLAIN, SMALL).get("worst_layer_cosine")
    smaller = "" if small is None else f" ({small:.2f} at beta {SMALL_BETA:g})"
    costs = f"{plain['flops_over_backprop']:.1f} F (even/odd {of(PLAIN, ALL)['flops_over_backprop']:.0f})"
    return (
        f"{deepest} layers: one sweep costs {costs}, worst layer's cosine {near:.2f} in plain ones{smaller}, "
        f"1 - {away:.0e} in residual ones"
    )
