"""How near the EP gradient is to `jax.grad` of the same network: whole and layer by layer.

cosine, relative error ||g_ep - g_bp|| / ||g_bp|| and norm ratio of the whole gradient; the worst layer is the one whose
parameters' gradient has the least cosine. At initialisation every repeat draws parameters and images anew (numbers are
means over repeats, `least` the smallest of them); after training, by backpropagation on the data named, one batch.
One sweep stands beside ten even/odd iterations, carried errors beside errors recomputed as a difference of states, and
centered beside the one-sided schemes, which cost 4/3 of backpropagation. MLP10, in float64 and at a beta that is as
good as zero, shows how many iterations even/odd needs to be exact: L / 2 with carried errors, L with recomputed ones.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import sqrt
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes

import epjax
from benchmarks.draw import CENTERED, EVEN_ODD, FORWARD, GREY, ONE_SIDED, VIOLET, dress, figure, save, ticks
from benchmarks.fidelity import average, compare
from benchmarks.methods import Method, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, Target, at_least, find, only, text
from benchmarks.settings import Setting, after_training, at_initialisation
from epjax.network import Params

NAME = "gradients"
COLUMNS = (
    "network",
    "state",
    "name",
    "precision",
    "beta",
    "cosine",
    "least_cosine",
    "worst_layer_cosine",
    "least_worst_layer_cosine",
    "worst_layer",
    "relative_error",
    "norm_ratio",
    "repeats",
)

BETAS = (0.05, 0.005, 0.0005, 0.00005)
SIDES = ("forward", "backward", "random")
GAIN_1, GAIN_HE = "gain 1", "gain sqrt(6)"
SWEEP = (
    Method(),
    *(Method(scheme=side) for side in SIDES),  # type: ignore[arg-type]
    Method(errors="recomputed"),
    Method(scheme="forward", errors="recomputed"),
)
ASYNC = (Method("async", 10), Method("async", 10, errors="recomputed"))
MAIN = (*SWEEP, *ASYNC)
SWEEPS = (Method(iterations=2), Method(iterations=3))
PRECISIONS = tuple(
    Method(scheme=scheme, errors=errors, precision=precision)  # type: ignore[arg-type]
    for precision in ("tf32", "bfloat16")
    for scheme in ("centered", "forward")
    for errors in ("carried", "recomputed")
)
TINY_BETA = 1e-6


@dataclass(frozen=True)
class Case:
    """Methods over betas on a network; each setting is a repeat."""

    settings: Sequence[Callable[[], Setting]]
    methods: tuple[Method, ...]
    betas: tuple[float, ...] = BETAS


def run(quick: bool) -> list[Row]:
    """One row a network, state, method and beta; the mean over repeats."""
    exactness = _exactness(4, (1, 2, 4)) if quick else _exactness(10, range(1, 13))
    return told(chain((row for case in (_quick() if quick else _cases()) for row in _measure(case)), exactness))


def _measure(case: Case) -> Iterator[Row]:
    settings = [make() for make in case.settings]
    references = {m.precision: _references(settings, m) for m in {m.precision: m for m in case.methods}.values()}
    for method in case.methods:
        ep = estimator(method, settings[0])
        repeats = list(enumerate(zip(settings, references[method.precision], strict=True)))
        for beta in case.betas:
            found = [
                compare(ep(jnp.float32(beta), s.params, s.x, s.y, jax.random.key(seed)), reference)
                for seed, (s, reference) in repeats
            ]
            yield {**settings[0].row(), **method.row(), "beta": beta, **average(found)}
        jax.clear_caches()


def _references(settings: Sequence[Setting], method: Method) -> list[Params]:
    bp = jax.jit(backprop(settings[0].net, method.precision))
    return [bp(*_args(s))[1] for s in settings]


def estimator(method: Method, setting: Setting) -> Callable[[Array, Params, Array, Array, Array], Params]:
    """(beta, params, x, y, key) -> gradient, compiled once for all betas."""

    def gradient(beta: Array, params: Params, x: Array, y: Array, key: Array) -> Params:
        return method.build(setting.net, beta)(params, x, y, key)[1]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="iterations=")  # too few iterations are what is looked at
        return jax.jit(gradient).lower(jnp.zeros((), setting.x.dtype), *_args(setting)).compile()


def _args(setting: Setting) -> tuple[Params, Array, Array, Array]:
    return setting.params, setting.x, setting.y, jax.random.key(0)


def _exactness(L: int, iterations: Sequence[int]) -> Iterator[Row]:
    """Even/odd against `jax.grad` over K, in float64 at a tiny beta: what is left is what K leaves out."""
    with jax.enable_x64(True):
        setting = float64(_mlp(f"MLP{L}", [64] * (L - 1) + [10], 0, 16, gain=sqrt(6)))
        reference = jax.jit(backprop(setting.net))(*_args(setting))[1]
        for errors in ("carried", "recomputed"):
            for K in iterations:
                method = Method("async", K, errors=errors, skip_unreached=False)  # type: ignore[arg-type]
                gradient = estimator(method, setting)(jnp.float64(TINY_BETA), *_args(setting))
                row = {**setting.row(), **method.row(), "precision": "float64", "beta": TINY_BETA}
                yield {**row, **average([compare(gradient, reference)])}


def float64(setting: Setting) -> Setting:
    """The same numbers in float64; call under jax.enable_x64(True)."""
    params, x = jax.tree.map(lambda v: v.astype(jnp.float64), (setting.params, setting.x))
    return Setting(setting.network, setting.state, setting.net, params, x, setting.y, setting.data)


def _vgg10(gain: float, state: str, seed: int) -> Callable[[], Setting]:
    net = epjax.models.vgg10(1000, gain=gain)
    return lambda: at_initialisation("VGG10", net, "imagenet", 224, 4, state, seed)


def _vgg5(width: float, seed: int) -> Callable[[], Setting]:
    net = epjax.models.vgg5(10, width=width)
    return lambda: at_initialisation("VGG5", net, "cifar10", 32, 4, GAIN_1, seed)


def _mlp(name: str, sizes: list[int], seed: int, count: int, gain: float = 1.0) -> Setting:
    state = GAIN_1 if gain == 1 else GAIN_HE
    return at_initialisation(name, epjax.models.mlp(sizes, gain=gain), "mnist", 28, count, state, seed)


MLP = [512, 512, 512, 10]


def _cases() -> Iterator[Case]:
    for gain, state in ((1.0, GAIN_1), (sqrt(6), GAIN_HE)):
        yield Case([_vgg10(gain, state, seed) for seed in range(3)], SWEEP)
        yield Case([_vgg10(gain, state, seed) for seed in range(3)], ASYNC[:1], BETAS[:3])
        yield Case([_vgg10(gain, state, 0)], ASYNC[1:], BETAS[:3])
    yield Case([_vgg5(1.0, seed) for seed in range(3)], (*MAIN, *SWEEPS, *PRECISIONS))
    yield Case([lambda seed=seed: _mlp("MLP", MLP, seed, 32) for seed in range(3)], (*MAIN, *SWEEPS, *PRECISIONS))  # type: ignore[misc]
    yield Case([_trained_vgg10], (*MAIN, *SWEEPS))
    yield Case([_trained_vgg5], (*MAIN, *SWEEPS))
    yield Case([_trained_mlp], (*MAIN, *SWEEPS))


def _quick() -> Iterator[Case]:
    methods = (Method(), Method(scheme="forward"), Method(scheme="forward", errors="recomputed"))
    yield Case([lambda: _mlp("MLP", [64, 64, 64, 10], 0, 8)], methods, BETAS[::3])


def _trained_vgg10() -> Setting:
    net = epjax.models.vgg10(20, width=1 / 4, gain=2.0)
    options = {"steps": 624, "batch_size": 64, "learning_rate": 0.02}
    return after_training("VGG10 width 1/4", net, "tiny_imagenet", 64, 16, **options)  # type: ignore[arg-type]


def _trained_vgg5() -> Setting:
    net = epjax.models.vgg5(10, width=1 / 4)
    options = {"steps": 600, "batch_size": 64, "learning_rate": 0.05}
    return after_training("VGG5 width 1/4", net, "cifar10", 32, 16, **options)  # type: ignore[arg-type]


def _trained_mlp() -> Setting:
    options = {"steps": 600, "batch_size": 64, "learning_rate": 0.05}
    return after_training("MLP", epjax.models.mlp(MLP), "mnist", 28, 32, **options)  # type: ignore[arg-type]


def targets(rows: list[Row]) -> list[Target]:
    """By the least of the repeats: VGG10 at 224, real ImageNet images, float32, one sweep, carried errors."""
    rows = find(rows, network="VGG10", data="imagenet_sample", precision="float32")
    promised = [
        (GAIN_1, "centered", 0.0005, 0.998, 0.99),
        (GAIN_1, "centered", 0.00005, 0.9998, 0.999),
        (GAIN_HE, "centered", 0.0005, 0.9999, 0.9998),
        *((GAIN_1, side, 0.00005, 0.9995, 0.995) for side in SIDES),
        *((GAIN_HE, side, 0.00005, 0.99999, None) for side in SIDES),
    ]
    found = []
    for state, scheme, beta, whole, worst in promised:
        if row := only(rows, state=state, name=f"sweep1/{scheme}", beta=beta):
            title = f"sweep1/{scheme}, {state}, beta {beta:g}"
            found.append(at_least(f"{title}: cosine", row["least_cosine"], whole))
            if worst is not None:
                found.append(at_least(f"{title}: worst layer's cosine", row["least_worst_layer_cosine"], worst))
    return found + _sweep_beside_async(rows)


def _sweep_beside_async(rows: list[Row]) -> list[Target]:
    """By the mean relative error over the draws that both have; even/odd also with the errors that the paper takes."""
    found = []
    for state, beta, errors in product((GAIN_1, GAIN_HE), BETAS[:3], ("carried", "recomputed")):
        sweep = only(rows, state=state, name="sweep1/centered", beta=beta)
        ten = only(rows, state=state, traversal="async", scheme="centered", errors=errors, beta=beta)
        if sweep and ten:
            n = min(len(sweep["relative_errors"]), len(ten["relative_errors"]))
            mine, other = (float(np.mean(row["relative_errors"][:n])) for row in (sweep, ten))
            title = f"relative error of sweep1 <= that of async10 with {errors} errors, {state}, beta {beta:g}"
            layer = (
                f"worst layer's cosine {text(sweep['worst_layer_cosine'])}, async10 {text(ten['worst_layer_cosine'])}"
            )
            found.append(Target(title, f"<= {other:.5f}", f"{mine:.5f}", mine <= other, layer))
    return found


def tables(rows: list[Row]) -> list[Table]:
    """One table a network and state, and the layers of the cheapest method."""
    columns = tuple(c for c in COLUMNS if c not in ("network", "state"))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        size = f"{row['image_size']}x{row['image_size']}, batch {row['batch_size']}, {row['data']}"
        groups.setdefault(f"{row['network']}, {row['state']}, {size}", []).append(row)
    return [Table(caption, columns, group) for caption, group in groups.items()] + _by_layer(rows)


def _by_layer(rows: list[Row]) -> list[Table]:
    first = rows[0]
    chosen = [row for row in find(rows, network=first["network"], errors="carried") if row["beta"] == rows[0]["beta"]]
    chosen += [row for row in find(rows, network=first["network"], errors="carried") if row["beta"] == 0.0005]
    chosen = [row for row in chosen if row["name"] in ("sweep1/centered", "async10/centered")]
    names = tuple(f"layer_{k}" for k in range(1, first["layers_count"] + 1)) if "layers_count" in first else ()
    if not names or not chosen:
        return []
    cells = [
        {**row, **{name: layer["cosine"] for name, layer in zip(names, row["layers"], strict=True)}} for row in chosen
    ]
    return [Table(f"Cosine by layer, {first['network']}", ("state", "name", "beta", *names), cells)]


LINES = (
    ("sweep1/centered", "one sweep, centered", CENTERED, "-"),
    ("sweep1/forward", "one sweep, forward", FORWARD, "-"),
    ("sweep1/random", "one sweep, random", ONE_SIDED, "-"),
    ("async10/centered", "10 even/odd iterations, centered", EVEN_ODD, "-"),
    ("sweep1/centered/recomputed", "one sweep, centered, recomputed errors", CENTERED, ":"),
    ("sweep1/forward/recomputed", "one sweep, forward, recomputed errors", FORWARD, ":"),
    ("async10/centered/recomputed", "10 even/odd, centered, recomputed errors", EVEN_ODD, ":"),
)


def headline(rows: list[Row]) -> str:
    """How near one centered sweep comes at the smallest beta."""
    found = [
        r for r in rows if r["name"] == "sweep1/centered" and r["precision"] == "float32" and r["layers_count"] > 2
    ]
    least = min(row["beta"] for row in found)
    far = max(row["relative_error"] for row in found if row["beta"] == least and row["errors"] == "carried")
    return f"One centered sweep at beta {least:g} is within {far:.1%} of backpropagation's gradient"


def draw(rows: list[Row], path: Path) -> None:
    """1 - cosine over beta, whole and worst layer, and the number of iterations that even/odd needs."""
    first = rows[0]
    states = list(dict.fromkeys(r["state"] for r in rows if r["network"] == first["network"]))[:2]
    main = find(rows, network=first["network"], precision="float32")
    what = f"{first['network']}, {first['image_size']}x{first['image_size']}, batch {first['batch_size']}"
    fig, axes = figure(
        headline(rows),
        f"{what}, {first['data']}, float32, mean of {first['repeats']} draws of parameters and images; lower is nearer",
        (1, len(states) + 1),
        (4.6 * (len(states) + 1), 5.6),
    )
    for ax, state in zip(axes[0], states, strict=False):
        for name, label, colour, style in LINES:
            line = sorted(find(main, state=state, name=name), key=lambda r: r["beta"])
            if not line:
                continue
            betas = [r["beta"] for r in line]
            ax.plot(
                betas, [r["relative_error"] for r in line], style, color=colour, label=label, marker="o", markersize=3
            )
        ax.set(xscale="log", yscale="log")
        ticks(ax, [r["beta"] for r in main])
        dress(ax, f"relative error, {state.split(' (')[0]}", "beta", "||EP - BP|| / ||BP||", legend=ax is axes[0, 0])
    _draw_exactness(axes[0, -1], find(rows, precision="float64"))
    save(fig, path)


def _draw_exactness(ax: Axes, rows: list[Row]) -> None:
    for errors, colour in (("carried", VIOLET), ("recomputed", GREY)):
        line = find(rows, errors=errors)
        K = [r["iterations"] for r in line]
        ax.plot(
            K, [r["relative_error"] for r in line], color=colour, marker="o", markersize=3, label=f"{errors} errors"
        )
    L = rows[0]["layers_count"]
    ax.axvline(L / 2, color=VIOLET, linewidth=0.8, linestyle=":")
    ax.axvline(L, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yscale("log")
    ticks(ax, [r["iterations"] for r in rows])
    dress(ax, f"even/odd, {L} dense layers, float64, beta {TINY_BETA:g}", "iterations K", "||EP - BP|| / ||BP||")
