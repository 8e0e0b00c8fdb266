"""What only an accelerator can show: gradient steps of VGG10 and ResNet-50 at ImageNet's size, and a short training.

    python -m benchmarks gpu --json FILE [--data imagenet_sample.tar]

meant for eight minutes on one device: images a second by EP (one-sided and centered, one sweep) and backpropagation, in
tf32, bfloat16 and float32, seconds over backpropagation's in turn, temporaries as XLA has assigned them, the peak that
the device tells of the process so far, and the roofline of `epjax plan` for the same program. Steps see random images;
the training reads `--data` where it is given, else one batch of random images again and again. A row is not begun when
the minutes are over: it says so. With --quick, tiny networks on whatever device is there.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import epjax
from benchmarks.draw import BACKPROPAGATION, CENTERED, ONE_SIDED, dress, figure, save
from benchmarks.measure import Program, compile_program, paired_times
from benchmarks.methods import Method, at_precision, backprop
from benchmarks.progress import told
from benchmarks.rows import Row, Table, find
from epjax import Network, models
from epjax.data import train_batches
from epjax.data.sources.tar import open_unsplit
from epjax.network.precision import Precision
from epjax.training.optimiser import sgd
from epjax.training.plan import DEVICES, Load
from epjax.training.step import Normalise, initial_state, train_step

NAME = "gpu"
COLUMNS = (
    *("network", "image_size", "batch_size", "name", "precision", "images_per_second", "seconds_over_backprop"),
    *("flops_over_backprop", "temporaries_gb", "peak_gb", "planned_images_per_second", "compile_seconds", "steps"),
    *("cost", "data", "device", "repeats", "why"),
)
BETA, MINUTES, REPEATS, EFFICIENCY = 0.001, 7.0, 5, 0.4
PRECISIONS: tuple[Precision, ...] = ("tf32", "bfloat16", "float32")
METHODS = {"EP one-sided": Method(scheme="forward"), "EP centered": Method()}


@dataclass(frozen=True)
class Case:
    """A network with the size of its images and batch, and the steps of its training."""

    name: str
    make: Callable[[int], Network]
    size: int
    batch: int
    classes: int
    steps: int
    precisions: tuple[Precision, ...] = PRECISIONS


FULL = (
    Case("VGG10", models.vgg10, 224, 64, 1000, 40),
    Case("ResNet-50", models.resnet50, 224, 32, 1000, 0),
)
TINY = partial(models.resnet.resnet, (1,), width=1 / 16, small_images=True)
QUICK = (
    Case("VGG10", lambda n: models.vgg10(n, width=1 / 64, dense=8), 32, 2, 10, 2, ("bfloat16",)),
    Case("ResNet of one block", TINY, 8, 2, 10, 0, ("float32",)),
)


@dataclass
class Clock:
    """Minutes that are left: a row is begun only if one as long as the longest so far would end in time."""

    seconds: float

    def __post_init__(self) -> None:
        self.start, self.last, self.longest = time.perf_counter(), time.perf_counter(), 0.0

    def allows(self) -> bool:
        """Whether another row may begin; called before each."""
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now
        return now - self.start + self.longest <= self.seconds


def run(quick: bool, data: Path | None = None, minutes: float = MINUTES) -> list[Row]:
    """Steps of each network at each precision, then the training."""
    return told(_rows(QUICK if quick else FULL, 1 if quick else REPEATS, data, Clock(60 * minutes)))


def _rows(cases: tuple[Case, ...], repeats: int, data: Path | None, clock: Clock) -> Iterator[Row]:
    trained = [case for case in cases if case.steps]
    for case in cases:
        for precision in case.precisions:
            about = _about(case, precision, repeats)
            yield from _steps(case, precision, repeats) if clock.allows() else _left_out(about)
            jax.clear_caches()
    for case in trained:
        for name in ("EP centered", "backpropagation"):
            about = {**_about(case, PRECISIONS[0], 1), "name": f"{name}, training"}
            yield {**about, **_training(case, name, data)} if clock.allows() else next(_left_out(about))


def _about(case: Case, precision: Precision, repeats: int) -> Row:
    empty: Row = dict.fromkeys(COLUMNS)
    shown = {"network": case.name, "image_size": case.size, "batch_size": case.batch, "precision": precision}
    device = jax.devices()[0].device_kind
    return {**empty, **shown, "repeats": repeats, "data": "random images", "device": device, "name": "steps"}


def _left_out(about: Row) -> Iterator[Row]:
    yield {**about, "why": "left out: the minutes were over"}


def _steps(case: Case, precision: Precision, repeats: int) -> Iterator[Row]:
    net = at_precision(case.make(case.classes), precision)
    args = (*_random(case, net), jax.random.key(0))
    reference = compile_program(backprop(net, precision), *args)
    about = _about(case, precision, repeats)
    seconds = []
    for name, method in METHODS.items():
        build = Method(scheme=method.scheme, precision=precision).build
        program = compile_program(build(net, BETA), *args)
        times = paired_times(lambda p=program: p.run(*args), lambda: reference.run(*args), repeats)  # type: ignore[misc]
        seconds.append(times.reference_seconds)
        yield {
            **about,
            **_said(program, case, precision, times.seconds),
            "name": name,
            "seconds_over_backprop": times.ratio,
            "flops_over_backprop": program.flops / reference.flops,
        }
    said = _said(reference, case, precision, min(seconds))
    yield {**about, **said, "name": "backpropagation", "seconds_over_backprop": 1.0, "flops_over_backprop": 1.0}


def _random(case: Case, net: Network) -> tuple[Any, Any, Any]:
    x = jax.random.normal(jax.random.key(1), (case.batch, case.size, case.size, 3), jnp.float32)
    return net.init(jax.random.key(0), x.shape[1:]), x, jnp.arange(case.batch, dtype=jnp.int32) % case.classes


def _said(program: Program, case: Case, precision: Precision, seconds: float) -> Row:
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "images_per_second": case.batch / seconds,
        "temporaries_gb": program.temporaries / 1e9,
        "peak_gb": peak and peak / 1e9,
        "planned_images_per_second": _planned(program, case, precision),
        "compile_seconds": program.compile_seconds,
    }


def _planned(program: Program, case: Case, precision: Precision) -> float | None:
    """By the roofline of `epjax plan`; None for a device that it does not know."""
    kind = jax.devices()[0].device_kind.lower()
    device = next((d for name, d in DEVICES.items() if name in kind), None)
    if device is None:
        return None
    traffic = float(program.run.cost_analysis()["bytes accessed"])  # type: ignore[attr-defined]
    return case.batch / Load(program.flops, traffic, program.memory).seconds(device, precision, EFFICIENCY)


def _training(case: Case, name: str, data: Path | None) -> Row:
    """Some steps of SGD with momentum; images a second with decoding, but without the first step, which compiles."""
    net = at_precision(case.make(case.classes), PRECISIONS[0])
    params, x, y = _random(case, net)
    normalise, said = Normalise((0.5,) * 3, (0.25,) * 3), {}
    image = np.random.default_rng(0).integers(0, 256, x.shape, np.uint8)
    batches: Iterable[dict[str, Any]] = repeat({"image": image, "label": np.asarray(y)})
    if data is not None:
        images = open_unsplit(data)
        transform, _ = images.transforms(case.size)
        normalise = Normalise(*images.stats)
        batches = train_batches(images.train, transform, batch_size=case.batch, seed=0)
        said = {"data": images.name}
    ep = Method(precision=PRECISIONS[0]).build(net, BETA)
    gradient = ep if name.startswith("EP") else backprop(net, PRECISIONS[0])
    optimiser = sgd(optax.constant_schedule(0.01), weight_decay=2e-4)
    step, state = train_step(gradient, optimiser, normalise), initial_state(params, optimiser)
    costs, start = [], 0.0
    for i, batch in zip(range(case.steps), batches, strict=False):
        state, metrics = step(state, {key: jnp.asarray(value) for key, value in batch.items()})
        costs.append(float(metrics["cost"]))
        start = time.perf_counter() if i == 0 else start
    speed = case.batch * (len(costs) - 1) / (time.perf_counter() - start)
    told_cost = f"{costs[0]:.2f} -> {np.mean(costs[-5:]):.2f}"
    return {**said, "images_per_second": speed, "steps": len(costs), "cost": told_cost}


def tables(rows: list[Row]) -> list[Table]:
    """Steps, the training, and what was left out."""
    there = find(rows, why=None)
    training = [row for row in there if row["steps"]]
    steps = [row for row in there if not row["steps"]]
    found = [Table("Gradient steps", COLUMNS[:12], steps)]
    short = ("network", "name", "precision", "batch_size", "images_per_second", "steps", "cost", "data")
    found += [Table("A short training", short, training)] if training else []
    missing = [row for row in rows if row["why"]]
    return [*found, Table("Left out", ("network", "name", "precision", "why"), missing)] if missing else found


def draw(rows: list[Row], path: Path) -> None:
    """Images a second, a group of bars for each network and precision."""
    there = [row for row in rows if row["why"] is None and not row["steps"]]
    groups = list(dict.fromkeys((row["network"], row["precision"]) for row in there))
    what = f"gradient steps, {rows[0]['device']}, jax {jax.__version__}, epjax {epjax.__version__}"
    fig, axes = figure("Images a second by EP and by backpropagation", what, (1, 1), (9.6, 4.4))
    for i, (name, colour) in enumerate(
        zip([*METHODS, "backpropagation"], (ONE_SIDED, CENTERED, BACKPROPAGATION), strict=True)
    ):
        line = find(there, name=name)
        at = [groups.index((row["network"], row["precision"])) + 0.25 * (i - 1) for row in line]
        axes[0, 0].bar(at, [row["images_per_second"] for row in line], width=0.22, color=colour, label=name)
    axes[0, 0].set_yscale("log")
    dress(axes[0, 0], "", "", "images a second")
    axes[0, 0].set_xticks(range(len(groups)), [f"{network}\n{precision}" for network, precision in groups])
    save(fig, path)
