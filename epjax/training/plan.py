"""What a training run needs before it is started: work, memory, time, images a second, decoding.

    epjax plan --network vgg10 --device h100 --devices 8 --algorithm ep --traversal sweep

Work and memory are those of the train step's gradient as XLA compiles it here, at two small batches, continued
linearly to the batch of one device. Time is a roofline: the longer of arithmetic at `efficiency` of the device's peak
and memory traffic at its bandwidth. `--calibrate` measures a small step on this machine instead and says how far the
prediction was off.

Networks are planned for, no other systems: a relaxation runs as many passes as its state asks for, and XLA counts the
body of such a loop once, whatever it runs.

The optimiser's state is counted as it is, each number read and written once a step. Its arithmetic is not, and Muon's
products of matrices are some.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from epjax import cost, models
from epjax.estimator import backprop_value_and_grad, value_and_grad
from epjax.network import Network
from epjax.network.precision import Precision
from epjax.systems.pcn.problem import Equilibration
from epjax.systems.pcn.sweep import Sweep
from epjax.systems.pcn.traversal import Async
from epjax.systems.system import ValueAndGrad
from epjax.training.optimiser import OPTIMISERS, averaged, named

IMAGENET_IMAGES = 1_281_167
SMALL_BATCHES = (2, 4)


@dataclass(frozen=True)
class Device:
    """Peaks of one device: FLOP/s by precision of products, bytes of memory, bytes/s, and where they are stated."""

    float32: float
    tf32: float
    bfloat16: float
    memory: float
    bandwidth: float
    source: str


def _tpu(bfloat16: float, memory: float, bandwidth: float, source: str) -> Device:
    # A TPU multiplies in bfloat16: float32 ("highest") takes 6 such products, jax's "high" takes 3.
    return Device(bfloat16 / 6, bfloat16 / 3, bfloat16, memory, bandwidth, source)


DEVICES = {
    "a100": Device(19.5e12, 156e12, 312e12, 80e9, 2.039e12, "NVIDIA A100 80GB SXM datasheet, dense"),
    "h100": Device(67e12, 494.5e12, 989e12, 80e9, 3.35e12, "NVIDIA H100 SXM datasheet, dense"),
    "h200": Device(67e12, 494.5e12, 989e12, 141e9, 4.8e12, "NVIDIA H200 SXM datasheet, dense"),
    "tpu_v5e": _tpu(197e12, 16e9, 819e9, "Google Cloud TPU v5e system architecture"),
    "tpu_v5p": _tpu(459e12, 95e9, 2.765e12, "Google Cloud TPU v5p system architecture"),
    "tpu_v6e": _tpu(918e12, 32e9, 1.6e12, "Google Cloud TPU v6e system architecture"),
}


@dataclass(frozen=True)
class Plan:
    """A run to be planned. Raises ValueError for counts below 1 and a batch that the devices cannot divide."""

    network: Literal["vgg10", "vgg10_skip", "vgg5"] = "vgg10"
    """Which network; VGG5 takes 32x32 images."""
    device: Literal["a100", "h100", "h200", "tpu_v5e", "tpu_v5p", "tpu_v6e"] = "h100"
    """Which device; its peaks are in a small table with their sources."""
    devices: int = 8
    """How many."""
    algorithm: Literal["ep", "bp"] = "ep"
    """Equilibrium propagation; backpropagation is shown beside it in any case."""
    traversal: Literal["async", "sweep"] = "sweep"
    """Even/odd iterations, or sweeps."""
    scheme: Literal["centered", "forward", "backward", "random"] = "centered"
    """Which nudged phases."""
    iterations: int = 10
    """K, of async."""
    sweeps: int = 1
    """S, of sweep."""
    precision: Precision = "tf32"
    """Precision of products."""
    batch_size: int = 256
    """Images in a step, over all devices."""
    image_size: int = 224
    """Height and width that the network sees."""
    width: float = 1.0
    """Multiplies the network's channels."""
    num_classes: int = 1000
    """Classes."""
    images: int = IMAGENET_IMAGES
    """Training images in an epoch."""
    epochs: int = 50
    """Epochs in the run."""
    optimiser: str = "sgd"
    """Whose state the devices hold: sgd, adam, adamw, lion, muon."""
    ema: bool = False
    """Hold a moving average of the parameters too."""
    efficiency: float = 0.4
    """Share of the device's peak that convolutions reach. An assumption."""
    price: float | None = None
    """Price of one device for an hour, in any currency; no price is assumed."""
    decode_rate: float = 600.0
    """Images that one core decodes and crops in a second (python -m benchmarks pipeline measures yours)."""
    image_bytes: float = 115e3
    """Mean size of a stored image, for disk bandwidth."""
    calibrate: bool = False
    """Predict a small step on this machine and measure it."""

    def __post_init__(self) -> None:
        for name in ("devices", "iterations", "sweeps", "batch_size", "image_size", "num_classes", "images", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.devices:
            raise ValueError(f"batch_size must be a multiple of devices, {self.devices}, got {self.batch_size}")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency must lie in (0, 1], got {self.efficiency}")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}")

    def net(self) -> Network:
        """The network to be planned for."""
        if self.network == "vgg5":
            return models.vgg5(self.num_classes, width=self.width, precision=self.precision)
        skip = self.network == "vgg10_skip"
        return models.vgg10(self.num_classes, width=self.width, precision=self.precision, skip=skip)

    def method(self) -> Equilibration:
        """The equilibration, laid out whole: XLA counts the body of a loop once."""
        if self.traversal == "sweep":
            return Sweep(self.sweeps, unroll=self.sweeps)
        return Async(self.iterations, unroll=self.iterations)

    def gradient(self, algorithm: str) -> ValueAndGrad:
        """What one step computes before the optimiser."""
        if algorithm == "bp":
            return backprop_value_and_grad(self.net(), cost.cross_entropy)
        return value_and_grad(self.net(), cost.cross_entropy, scheme=self.scheme, equilibration=self.method())


@dataclass(frozen=True)
class Load:
    """What a gradient asks of a device: FLOPs, bytes moved, bytes held; `at(batch)` continues it linearly."""

    flops: float
    traffic: float
    memory: float

    def __add__(self, other: "Load") -> "Load":
        return Load(self.flops + other.flops, self.traffic + other.traffic, self.memory + other.memory)

    def __mul__(self, factor: float) -> "Load":
        return Load(self.flops * factor, self.traffic * factor, self.memory * factor)

    def seconds(self, device: Device, precision: Precision, efficiency: float) -> float:
        """The roofline."""
        return max(self.flops / (getattr(device, precision) * efficiency), self.traffic / device.bandwidth)


@dataclass(frozen=True)
class Estimate:
    """One algorithm on the planned devices."""

    name: str
    load: Load
    step_seconds: float
    images_per_second: float
    hours: float


def inputs(plan: Plan, batch: int) -> tuple[Any, ...]:
    """Abstract (params, x, y, key) of a batch: nothing is allocated."""
    image = (plan.image_size, plan.image_size, 3)
    params = jax.eval_shape(lambda: plan.net().init(jax.random.key(0), image))
    x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
    return params, x, jax.ShapeDtypeStruct((batch,), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))


def load_of(plan: Plan, algorithm: str, batch: int) -> Load:
    """The compiled gradient at this batch: XLA's cost and memory analyses."""
    compiled = jax.jit(plan.gradient(algorithm)).lower(*inputs(plan, batch)).compile()
    counted, held = compiled.cost_analysis(), compiled.memory_analysis()
    assert counted is not None
    assert held is not None
    memory = held.argument_size_in_bytes + held.output_size_in_bytes + held.temp_size_in_bytes
    return Load(counted["flops"], counted["bytes accessed"], memory)


def per_device_load(plan: Plan, algorithm: str) -> Load:
    """The load of one device's share of the batch: a + b batch through two small batches."""
    small, large = SMALL_BATCHES
    one, two = load_of(plan, algorithm, small), load_of(plan, algorithm, large)
    slope = (two + one * -1.0) * (1 / (large - small))
    return one + slope * (plan.batch_size // plan.devices - small) + optimiser_load(plan)


def optimiser_load(plan: Plan) -> Load:
    """What the optimiser holds, which it reads and writes, and the parameters that it writes."""
    params = inputs(plan, 1)[0]
    kept = named(plan.optimiser, 0.1)
    state = jax.eval_shape((averaged(kept, 0.999) if plan.ema else kept).init, params)
    held, written = (float(sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))) for tree in (state, params))
    return Load(0.0, 2.0 * held + written, held)


def estimate(plan: Plan, algorithm: str) -> Estimate:
    """Time a step, images a second and hours of the whole run for one algorithm."""
    load = per_device_load(plan, algorithm)
    seconds = load.seconds(DEVICES[plan.device], plan.precision, plan.efficiency)
    steps = plan.images // plan.batch_size * plan.epochs
    return Estimate(_name(plan, algorithm), load, seconds, plan.batch_size / seconds, seconds * steps / 3600)


def measure(f: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of f(), which was run once before."""
    jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(f())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def calibrate(plan: Plan, batch: int = 4) -> tuple[float, float]:
    """(predicted, measured) seconds of an EP gradient on this machine.

    This machine's FLOP/s are those that backpropagation reaches on the same network and batch; prediction is EP's
    FLOPs at that rate.
    """
    shapes = inputs(plan, batch)
    params = plan.net().init(jax.random.key(0), shapes[1].shape[1:])
    arguments = (
        params,
        jnp.ones(shapes[1].shape, jnp.float32),
        jnp.arange(batch) % plan.num_classes,
        jax.random.key(0),
    )

    def run(algorithm: str) -> tuple[float, float]:
        compiled = jax.jit(plan.gradient(algorithm)).lower(*arguments).compile()
        counted = compiled.cost_analysis()
        assert counted is not None
        return counted["flops"], measure(lambda: compiled(*arguments))

    (bp_flops, bp_seconds), (ep_flops, ep_seconds) = run("bp"), run("ep")
    return ep_flops / (bp_flops / bp_seconds), ep_seconds


def _name(plan: Plan, algorithm: str) -> str:
    if algorithm == "bp":
        return "backpropagation"
    steps = (
        f"{plan.sweeps} sweep{'s' * (plan.sweeps > 1)}" if plan.traversal == "sweep" else f"async K = {plan.iterations}"
    )
    return f"EP {plan.scheme}, {steps}"


def show(plan: Plan) -> None:
    """Prints the estimate beside backpropagation's, and what it assumes."""
    from rich.console import Console
    from rich.table import Table

    device = DEVICES[plan.device]
    algorithms = ["bp"] if plan.algorithm == "bp" else ["ep", "bp"]
    estimates = [estimate(plan, algorithm) for algorithm in algorithms]
    table = Table(title=f"{plan.network}, {plan.image_size}x{plan.image_size}, {plan.devices} x {plan.device}")
    table.add_column("")
    for e in estimates:
        table.add_column(e.name, justify="right")
    rows: dict[str, Callable[[Estimate], str]] = {
        "TFLOPs a step": lambda e: f"{e.load.flops * plan.devices / 1e12:.2f}",
        "GB on a device": lambda e: f"{e.load.memory / 1e9:.1f} of {device.memory / 1e9:.0f}",
        "ms a step": lambda e: f"{e.step_seconds * 1e3:.1f}",
        "images/s": lambda e: f"{e.images_per_second:,.0f}",
        f"hours, {plan.epochs} epochs": lambda e: f"{e.hours:.1f}",
        "device-hours": lambda e: f"{e.hours * plan.devices:.1f}",
        "decoding cores": lambda e: f"{e.images_per_second / plan.decode_rate:.0f}",
        "disk, MB/s": lambda e: f"{e.images_per_second * plan.image_bytes / 1e6:.0f}",
    }
    price = plan.price
    if price is not None:
        rows["price"] = lambda e: f"{e.hours * plan.devices * price:,.0f}"
    for name, text in rows.items():
        table.add_row(name, *(text(e) for e in estimates))
    console = Console(markup=False, emoji=False)
    console.print(table)
    peak = getattr(device, plan.precision) / 1e12
    console.print(
        f"Assumes: {plan.precision} products at {plan.efficiency:.0%} of peak ({peak:g} TFLOP/s, "
        f"{device.bandwidth / 1e12:g} TB/s, {device.source}); work, traffic and memory as XLA compiles the step for "
        f"{jax.default_backend()}, whose fusion is not the device's; no time for communication; "
        f"{plan.decode_rate:g} decoded images/s a core, {plan.image_bytes / 1e3:g} kB an image."
    )
    if max(e.load.memory for e in estimates) > device.memory:
        console.print("The step does not fit: use more devices, a smaller batch or phases in sequence.")


def main(argv: Sequence[str] | None = None, prog: str = "epjax plan") -> int:
    """The command."""
    import tyro

    about = "What a training run needs: work, memory, time, decoding; beside backpropagation."
    try:
        plan = tyro.cli(Plan, args=argv, prog=prog, description=about)
        if plan.calibrate:
            small = dataclasses.replace(plan, image_size=min(plan.image_size, 64), precision="float32")
            predicted, measured = calibrate(small)
            print(
                f"{_name(small, 'ep')} at {small.image_size}x{small.image_size}, batch 4, float32, on this machine: "
                f"predicted {predicted * 1e3:.0f} ms, measured {measured * 1e3:.0f} ms "
                f"({predicted / measured - 1:+.0%})"
            )
            return 0
        show(plan)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
