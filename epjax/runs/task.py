"""What is trained on what, and how the gradient is had: from options to the library's objects."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from epjax import Network, pc
from epjax.cost import COSTS, smooth_labels
from epjax.data import Dataset
from epjax.data.transforms import Transform
from epjax.diagnosis.examine import Diagnose, diagnoser
from epjax.network import Params
from epjax.pc.incremental import Update
from epjax.runs.algorithm import ALGORITHMS, Algorithm, inference
from epjax.runs.config import Gradient
from epjax.systems import EQUILIBRATIONS, as_system
from epjax.systems.system import System, ValueAndGrad


@dataclass(frozen=True)
class Task:
    """A network, and the images it learns from; `experiment` is the name, or the file, of what made them."""

    experiment: str
    title: str
    network: Network | System
    dataset: Dataset
    train_transform: Transform
    eval_transform: Transform

    def facts(self) -> dict[str, Any]:
        """What the data are, whatever folder they lie in."""
        return {"data_name": self.dataset.name, **self.sizes(), **self.content()}

    def sizes(self) -> dict[str, int]:
        """What of it must not have changed."""
        data = self.dataset
        return {"classes": len(data.classes), "train_images": len(data.train), "val_images": len(data.val)}

    def content(self) -> dict[str, str]:
        """What the data say, as a digest, of a text; images are held to their sizes alone."""
        return {"text_sha256": self.dataset.sha256} if self.dataset.sha256 else {}

    def interface(self) -> dict[str, Any]:
        """What the trained network takes and gives: all that must be known to use it without its training data."""
        transform: Any = self.eval_transform
        return {
            "experiment": self.experiment,
            "class_names": self.dataset.classes,
            **({"words": dict(self.dataset.words)} if self.dataset.words else {}),
            **({"token": self.dataset.token} if self.dataset.token else {}),
            "mean": self.dataset.stats.mean,
            "std": self.dataset.stats.std,
            "transform": {"kind": type(transform).__name__, **dataclasses.asdict(transform)},
        }


def equilibration(options: Gradient) -> Any:
    """The way from the free to the nudged state: that of the table, with what `options` say of its fields."""
    usual = EQUILIBRATIONS[options.traversal]
    asked = dataclasses.asdict(options)
    known = {field.name for field in dataclasses.fields(usual)} & asked.keys()
    return dataclasses.replace(usual, **{name: asked[name] for name in known})


def free_method(options: Gradient, network: Network | System) -> Any:
    """The way to the free state; None where it is a forward pass."""
    usual = as_system(network).default_free()
    if usual is None:
        return None
    asked = {"iterations": options.free_iterations, "tolerance": options.free_tolerance, "over": options.over}
    return dataclasses.replace(usual, **asked)


def output(options: Gradient, network: Network | System) -> Callable[[Params, Array], tuple[Array, ...]]:
    """(params, x) -> (..., output) of the free phase of one example."""
    if isinstance(network, Network):
        return network.forward
    system, method = network, free_method(options, network)
    return lambda params, x: (system.free(params, x, method).output,)


def _chosen(options: Gradient, network: Network | System) -> Algorithm:
    """Raises ValueError for an algorithm that needs a forward pass, and a system that has none."""
    algorithm = ALGORITHMS[options.algorithm]
    if not isinstance(network, Network) and not algorithm.of_any_system:
        allowed = " or ".join(name for name, known in ALGORITHMS.items() if known.of_any_system)
        which = f"{type(network).__name__}, which settles and has no forward pass"
        raise ValueError(f"algorithm must be {allowed} for {which}, got {options.algorithm!r}")
    return algorithm


def gradient(options: Gradient, network: Network | System, num_classes: int, argnums: int = 0) -> ValueAndGrad:
    """The gradient function that the train step takes; of EP with `argnums` 1 that for the input.

    Raises ValueError for what the network does not have.
    """
    make = _chosen(options, network).gradient
    assert make is not None
    estimate = make(options, network, COSTS[options.cost], _estimator(options, network) | {"argnums": argnums})
    return smoothed(estimate, num_classes, options.label_smoothing)


def updates(options: Gradient) -> int:
    """How often the optimiser is asked for each batch."""
    return 1 if ALGORITHMS[options.algorithm].gradient else options.inference_steps


def incremental(
    options: Gradient, network: Network | System, num_classes: int, optimiser: optax.GradientTransformation
) -> Update:
    """The update that the train step takes of an algorithm with more than one for each batch."""
    _chosen(options, network)
    assert isinstance(network, Network)
    update = pc.incremental_update(network, optimiser, COSTS[options.cost], **inference(options))
    return smoothed(update, num_classes, options.label_smoothing, at=3)


def diagnosis(options: Gradient, network: Network | System, num_classes: int) -> Diagnose:
    """What watches that gradient. Raises ValueError for what is not EP."""
    if options.algorithm != "ep":
        raise ValueError(f"diagnose_every needs algorithm 'ep', got {options.algorithm!r}")
    watch = diagnoser(network, cost=COSTS[options.cost], **_estimator(options, network))
    return smoothed(watch, num_classes, options.label_smoothing)


def _estimator(options: Gradient, network: Network | System) -> dict[str, Any]:
    return {
        "free": free_method(options, network),
        "scheme": options.scheme,
        "points": options.points,
        "perturbation": options.perturbation,
        "beta": options.beta,
        "guard": options.beta_guard,
        "equilibration": equilibration(options),
        "errors": options.errors,
        "phases": options.phases,
    }


Result = TypeVar("Result")


def smoothed(estimate: Callable[..., Result], num_classes: int, amount: float, at: int = 2) -> Callable[..., Result]:
    """`estimate` with its labels, argument `at`, smoothed (`epjax.cost.smooth_labels`); itself where `amount` is 0."""
    if amount == 0:
        return estimate
    smooth = partial(smooth_labels, num_classes=num_classes, amount=amount)
    smooth(jnp.zeros((), jnp.int32))  # a wrong amount is refused here, not in the first step
    return lambda *given: estimate(*given[:at], jax.vmap(smooth)(given[at]), *given[at + 1 :])
