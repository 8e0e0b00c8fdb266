"""A cell that trains a system as it is built: `Device` with one fault of one strength, all seeds in one program.

Three ways to weights. "EP": centered EP on the device, which measures and subtracts its reads. "exact": the exact
gradient of the device itself. "moved": the exact gradient of the ideal system, whose weights are then put on the
device; "tuned": these, trained on by EP there for one more epoch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import epjax
from epjax.hardware import Adc, Device, Settling, budget
from epjax.recipes import hopfield, oscillators, perceptron, resistive
from epjax.runs.experiment import Experiment
from epjax.systems import PCN
from epjax.training.optimiser import cosine, sgd
from experiments.reproduce.cell import Result
from experiments.reproduce.data import open_data

Way = Literal["EP", "exact", "moved", "tuned"]
SYSTEMS: Mapping[str, Experiment] = {
    "PCN": perceptron.EXPERIMENT,
    "Hopfield": hopfield.EXPERIMENT,
    "resistive": resistive.EXPERIMENT,
    "oscillators": oscillators.EXPERIMENT,
}
RATES = {"PCN": 0.1}
"""Learning rates where the recipe's is for another size of batch or data."""
SETTLED = 60
"""Passes of the oscillators' free phase where its exact gradient is taken, which needs phases at rest."""
SEEDS = 3
SPAN = 4.0
"""A converter's range beside that of the states at the start, which grow."""
WEIGHTS_STAY: tuple[Way, ...] = ("moved", "tuned")


@dataclass(frozen=True)
class Setting:
    """What is trained: the recipe of `system` with one hidden layer, for `epochs` of the first images."""

    system: str
    dataset: str = "mnist"
    hidden: int = 128
    train_images: int = 10_000
    val_images: int = 3_000
    epochs: int = 3

    def make(self) -> Any:
        """The ideal system."""
        network = replace(SYSTEMS[self.system].network, hidden=(self.hidden,))  # type: ignore[type-var]
        found = network.make(10, None, "float32")
        return PCN(found) if isinstance(found, epjax.Network) else found

    @property
    def recipe(self) -> Any:
        """Of the system: gradient and optimiser."""
        recipes: Any = SYSTEMS[self.system].recipes
        return recipes["demo"]


@dataclass(frozen=True)
class Fault:
    """One non-ideality; `level` is its strength.

    read noise       share of a layer's RMS            converter bits   over `SPAN` ranges of a layer at the start
    weight bits      of a stored coupling              mismatch         standard deviation of log m
    passes           of both phases
    """

    kind: Literal["read noise", "converter bits", "weight bits", "mismatch", "passes"]
    level: float
    rounding: Literal["nearest", "stochastic"] = "nearest"
    reads: int = 1

    def device(self, system: Any, level: Any, chip: Any, ranges: Any) -> Device:
        """The system with it; `level` and `chip` may be traced."""
        match self.kind:
            case "read noise":
                return Device(system, read_noise=level, reads=self.reads)
            case "converter bits":
                return Device(system, adc=Adc(level, *ranges))
            case "weight bits":
                return Device(system, weight_bits=level, rounding=self.rounding, seed=chip)
            case "mismatch":
                return Device(system, mismatch=level, seed=chip)
            case "passes":
                return Device(system, settling=Settling(iterations=int(self.level)))


@dataclass(frozen=True)
class Built:
    """The cell. `beta` None: the best of `epjax.hardware.budget` at the start of the first seed."""

    place: Mapping[str, Any]
    setting: Setting
    fault: Fault
    way: Way = "EP"
    beta: float | None = None

    def identity(self) -> dict[str, Any]:
        """All its options, of the recipe too."""
        recipe = self.setting.recipe
        told: dict[str, Any] = asdict(self.setting) | asdict(self.fault) | {"way": self.way, "beta": self.beta}
        told |= {"seeds": SEEDS, "span": SPAN, "rate": rate(self.setting), "layer_rates": recipe.optimiser.layer_rates}
        told |= {"batch_size": recipe.optimiser.batch_size, "cost": recipe.gradient.cost}
        told |= {"iterations": recipe.gradient.iterations, "free_iterations": recipe.gradient.free_iterations}
        return told

    def forwards(self) -> float:
        """Images seen."""
        return float(SEEDS * self.setting.train_images * self.setting.epochs)

    def forward_seconds(self) -> float:
        """A guess, which the first cell corrects."""
        return 1 / 3000

    def run(self, folder: Path, data: Path) -> Result:
        """Train all seeds at once."""
        del folder
        found = examples(self.setting, data)
        start = starts(self.setting)
        needs = self.needs(found, start) if self.beta is None else {"best_beta": self.beta}
        beta = needs["best_beta"]
        level = jnp.float32(self.fault.level)
        program = programs(self.setting, replace(self.fault, level=self.fault.level if self.static else 0.0), self.way)
        if self.way in WEIGHTS_STAY:
            start = ideal_weights(self.setting, data)
        share, cost = program(start, level, jnp.float32(beta), *found)
        lines: list[dict[str, Any]] = [
            {"epoch": self.setting.epochs, "seed": i, "val_top1_error": 100 * float(e), "val_images": len(found[3])}
            | {"val_cost": float(c) if np.isfinite(c) else None}
            for i, (e, c) in enumerate(zip(share, cost, strict=True))
        ]
        return {"evaluations": lines, "training": [], "diverged": lost(cost), "budget": needs}

    @property
    def static(self) -> bool:
        """Whether each level is a program of its own."""
        return self.fault.kind == "passes"

    def needs(self, found: Any, start: Any) -> dict[str, Any]:
        """The budget of the first seed's chip at the start, for a batch of the recipe's size."""
        system, f = self.setting.make(), self.fault
        params = jax.tree.map(lambda v: v[0], start)
        x, y = (v[: self.setting.recipe.optimiser.batch_size] for v in found[:2])
        device = f.device(system, f.level, 0, ranges_of(system, params, found[0][:64]))
        noise = f.level if f.kind == "read noise" else 0.0
        way = phases(self.setting)
        told = budget(device, params, x, y, self.setting.recipe.gradient.cost, read_noise=noise, **way)
        kept = ("best_beta", "rms", "displacement", "critical_noise", "bias", "noise")
        return {name: getattr(told, name) for name in kept}


def lost(cost: Any) -> str | None:
    """Words, where no seed ended in a number; one that did not is at the error of chance."""
    return None if np.isfinite(cost).any() else "the cost of all seeds became NaN"


def rate(setting: Setting) -> float:
    """The recipe's learning rate, or that for this size."""
    return RATES.get(setting.system, setting.recipe.optimiser.learning_rate)


@cache
def examples(setting: Setting, data: Path) -> tuple[Any, ...]:
    """x, y of training, x, y of validation: pixels in [0, 1], float32."""
    dataset = open_data(setting.dataset, data, setting.train_images, setting.val_images)

    def arrays(source: Any) -> tuple[Any, Any]:
        found = [source[i] for i in range(len(source))]
        _, transform = dataset.transforms(28)
        x = np.stack([transform(example, np.random.default_rng(0)) for example in found])
        return jnp.asarray(x, jnp.float32) / 255, jnp.asarray([example.label for example in found], jnp.int32)

    return (*arrays(dataset.train), *arrays(dataset.val))


@cache
def starts(setting: Setting) -> Any:
    """Parameters of all seeds [SEEDS, ...]."""
    system = setting.make()
    return jax.vmap(lambda seed: system.init(jax.random.key(seed), (28, 28, 1)))(jnp.arange(SEEDS))


def phases(setting: Setting) -> dict[str, Any]:
    """How the recipe's two phases are settled."""
    gradient = setting.recipe.gradient
    if setting.system == "PCN":
        return {"equilibration": epjax.Sweep(gradient.sweeps), "free": None}
    settle = partial(epjax.Relax, tolerance=None)
    return {"equilibration": settle(gradient.iterations), "free": settle(gradient.free_iterations)}


def ranges_of(system: Any, params: Any, x: Any) -> tuple[Any, Any]:
    """Ends of a converter for each layer: `SPAN` times the range of the free states at the start, about its middle."""
    states = jax.vmap(lambda x: system.free(params, x).states)(x)
    low, high = (jnp.stack([f(s) for s in states]) for f in (jnp.min, jnp.max))
    wide = 0.5 * (SPAN - 1) * (high - low)
    return low - wide, high + wide


@cache
def programs(setting: Setting, fault: Fault, way: Way) -> Any:
    """(params [SEEDS, ...], level, beta, x, y, x_val, y_val) -> validation error and cost [SEEDS], compiled once."""
    system, epochs = setting.make(), {"moved": 0, "tuned": 1}.get(way, setting.epochs)

    def one(seed: Any, start: Any, level: Any, beta: Any, x: Any, y: Any, x_val: Any, y_val: Any) -> Any:
        device = fault.device(system, level, seed, ranges_of(system, start, x[:64]))
        params = start
        if epochs:
            params = trained(setting, device, start, seed, beta, x, y, epochs, exact=way == "exact")
        return evaluated(setting, device, params, x_val, y_val)

    seeds = jnp.arange(SEEDS)
    many = jax.vmap(one, in_axes=(0, 0, *(None,) * 6))
    return jax.jit(lambda start, *rest: many(seeds, start, *rest))


@cache
def ideal_weights(setting: Setting, data: Path) -> Any:
    """What the exact gradient makes of the ideal system, all seeds."""
    system = setting.make()

    def one(seed: Any, start: Any, x: Any, y: Any) -> Any:
        return trained(setting, system, start, seed, 0.0, x, y, setting.epochs, exact=True)

    x, y, *_ = examples(setting, data)
    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))(jnp.arange(SEEDS), starts(setting), x, y)


def trained(
    setting: Setting, system: Any, params: Any, seed: Any, beta: Any, x: Any, y: Any, epochs: int, exact: bool
) -> Any:
    """The recipe's gradient descent with the cosine, images in another order in every epoch."""
    options, batch = setting.recipe.optimiser, setting.recipe.optimiser.batch_size
    cost, way = setting.recipe.gradient.cost, phases(setting)
    if exact:
        free = epjax.Relax(SETTLED) if setting.system == "oscillators" else way["free"]
        gradient = epjax.exact_value_and_grad(system, cost, free=free)
    else:
        gradient = epjax.value_and_grad(system, cost, scheme="centered", beta=beta, errors="recomputed", **way)
    steps = epochs * (len(x) // batch)
    optimiser = sgd(cosine(rate(setting), 0.0, steps), momentum=0.0, nesterov=False, layer_rates=options.layer_rates)
    key = jax.random.fold_in(jax.random.key(1), seed)
    orders = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), len(x)))(jnp.arange(epochs))
    batches = orders[:, : len(x) // batch * batch].reshape(steps, batch)

    def step(carry: Any, given: Any) -> Any:
        params, state = carry
        number, chosen = given
        draw = jax.random.fold_in(key, epochs + number)
        _, grads = gradient(params, x[chosen], y[chosen], draw)
        updates, state = optimiser.update(grads, state, params)
        params = system.project(jax.tree.map(jnp.add, params, updates))
        if isinstance(system, Device):
            params = system.write(params, draw)
        return (params, state), None

    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), (jnp.arange(steps), batches))
    return params


def evaluated(setting: Setting, device: Device, params: Any, x: Any, y: Any) -> Any:
    """Share of images that are taken for another class, and their mean cost, of outputs without noise."""
    free = phases(setting)["free"]
    cost = epjax.cost.as_cost(setting.recipe.gradient.cost)
    outputs = jax.vmap(lambda x: device.free(params, x, free).output)(x)
    wrong = jnp.mean(jnp.argmax(outputs, axis=-1) != y, dtype=jnp.float32)
    return wrong, jnp.mean(jax.vmap(cost)(outputs, jax.nn.one_hot(y, 10, dtype=outputs.dtype)))
