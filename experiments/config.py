"""The configuration of a run: one frozen dataclass, defaults from a named recipe, explicit options win.

The command line is read twice: once to learn which data and recipe are asked for, and again with that
recipe's numbers as the defaults. So `--help` shows the defaults that hold for the data at hand.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from epjax.equilibrium import Errors
from epjax.estimator import Phases
from epjax.perturbation import PerturbationName
from epjax.precision import Precision
from epjax.scheme import Scheme

Traversal = Literal["async", "sync", "sweep"]
# Options that may change between a run and its continuation: they do not touch the numbers.
MAY_CHANGE = frozenset(
    {"workdir", "recipe", "data", "max_steps", "keep", "checkpoint_every", "coordinator", "num_processes", "process_id"}
    | {"num_workers", "num_threads", "model_parallel", "microbatches", "on_bad_image", "data_name"}
    | {"on_nan", "max_skipped", "diagnose_every"}
)
# Options that are younger than some runs, with the value that leaves the numbers what they were without them.
YOUNGER: Mapping[str, Any] = {"points": 1, "label_smoothing": 0.0, "warmup_epochs": 0}
# Options that may differ between the processes of a run: they say what lies where.
MAY_DIFFER = frozenset({"workdir", "data", "num_workers", "num_threads", "coordinator", "process_id"})


@dataclass(frozen=True)
class Run:
    """Where it runs and how it reports. The same command goes on where a run in DIR was stopped."""

    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for checkpoints, metrics.jsonl, config.json and the learning curve."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Named set of defaults; auto picks one by the data."""
    seed: int = 0
    """Initial weights, order of the data, augmentation and random signs follow from it."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Stop after this many steps in all, wherever the cosine is then."""
    log_every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Steps between training lines in metrics.jsonl; None: ten lines an epoch, at most 100 steps apart."""
    eval_every: int = 1
    """Epochs between evaluations. The last step is always evaluated."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, beside the one at every evaluation."""
    keep: int = 3
    """Checkpoints to keep, beside the best."""
    model_parallel: int = 1
    """Devices that share one copy of the parameters (the model axis of the mesh)."""
    microbatches: int = 1
    """Slices of the batch, on each device, whose gradients are computed one after the other, in less memory."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Stop at a NaN or infinity in cost, gradient or (with --tolerance) residual; or skip and count the step."""
    diagnose_every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Steps between diagnoses of the EP gradient, beside backpropagation's, on up to 32 images; None: none."""
    max_skipped: int = 10
    """Stop all the same when more steps than this are skipped in a row, with --on-nan skip."""


@dataclass(frozen=True)
class Gradient:
    """How the gradient is estimated."""

    algorithm: Literal["ep", "bp"] = "ep"
    """Equilibrium propagation, or backpropagation of the same network."""
    scheme: Scheme = "centered"
    """Which nudged phases: both signs, one sign, a random sign for each image, or complex strengths."""
    points: int = 1
    """N strengths of either sign (centered), or half the roots of unity (holomorphic): error O(beta^2N) if smooth."""
    cost: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    """What the output is nudged to lower."""
    label_smoothing: float = 0.0
    """Share of each training label that is spread evenly over all classes."""
    perturbation: PerturbationName = "nudge"
    """Nudge the output by the gradient of the cost, or clamp it towards the target."""
    beta: float = 0.05
    """Nudging strength, positive."""
    traversal: Traversal = "async"
    """Order of the layer updates: even then odd layers, all at once, or sweeps."""
    iterations: int = 10
    """K, the iterations of async and sync."""
    sweeps: int = 1
    """Sweeps down and up the layers, with --traversal sweep."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop the nudged phase at this residual; None: run all iterations."""
    update: Literal["mod_pgd", "pgd"] = "mod_pgd"
    """Rectify drive plus signal (mod_pgd), or step from the state and project (pgd)."""
    step_size: float = 1.0
    """alpha of pgd; mod_pgd has 1."""
    errors: Errors = "carried"
    """Carry the prediction errors, or recompute them as differences of states."""
    phases: Phases = "together"
    """The two nudged phases in one call, or one after the other in less memory."""
    precision: Precision = "float32"
    """Precision of products; parameters and optimiser are float32 always."""


@dataclass(frozen=True)
class Optimiser:
    """SGD with Nesterov momentum 0.9 and one cosine decay of the learning rate, after a linear warm-up if any."""

    epochs: int = 50
    """Length of the run: warm-up and cosine."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises, at every step, to its full height."""
    batch_size: int = 256
    """Images in a step, over all devices."""
    learning_rate: float = 0.02
    """Before the decay."""
    final_learning_rate: float = 2e-6
    """After the decay."""
    weight_decay: float = 2e-4
    """Added to every gradient, times the parameter, before the momentum."""
    cosine: Literal["epoch", "step"] = "epoch"
    """Lower the learning rate once an epoch, or at every step."""


@dataclass(frozen=True)
class Feed:
    """How images are read."""

    num_workers: int = 0
    """Processes that decode; 0: decode in this process."""
    num_threads: int = 2
    """Threads that decode, in each process."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """Stop at an image that cannot be decoded, naming it; or skip, count and report it."""


@dataclass(frozen=True)
class Processes:
    """One run on many hosts: the same command on each, with a --process-id of its own. Slurm, Cloud TPU and Kubernetes
    tell each process by themselves."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where process 0 listens for the others."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many there are; 1 alone: this one, whatever the launcher says."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Which one this is, from 0. Process 0 writes the metrics and the pictures."""


@dataclass(frozen=True)
class Config:
    """What every experiment has; each adds its network and its data."""

    run: Run
    gradient: Gradient = field(default_factory=Gradient)
    optimiser: Optimiser = field(default_factory=Optimiser)
    feed: Feed = field(default_factory=Feed)
    processes: Processes = field(default_factory=Processes)


C = TypeVar("C", bound=Config)


def parse(kind: type[C], choose: Callable[[C], C], argv: Sequence[str] | None, prog: str, about: str) -> C:
    """The configuration from the command line; `choose` gives the defaults for what a first reading found.

    The recipe's name in the result is the one that was chosen.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    asked = [word for word in argv if word not in ("-h", "--help")]
    defaults = choose(_read(kind, kind(Run(Path())), asked, prog, about))
    unset = replace(defaults, run=replace(defaults.run, workdir=tyro.MISSING, recipe="auto"))
    config = _read(kind, unset, argv, prog, about)
    return replace(config, run=replace(config.run, recipe=defaults.run.recipe))


def pick(recipes: Mapping[str, C], name: str) -> C:
    """The recipe of that name. Raises ValueError for a name that is not offered."""
    if name not in recipes:
        raise ValueError(f"recipe must be one of auto, {', '.join(recipes)}, got {name!r}")
    return recipes[name]


def _read(kind: type[C], default: C, argv: Sequence[str], prog: str, about: str) -> C:
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(kind, default=default, args=argv, prog=prog, description=about, config=markers)


def flat(config: Config) -> dict[str, Any]:
    """All options by name, as JSON can hold them."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    options = {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def unflat(kind: type[C], options: Mapping[str, Any]) -> C:
    """The configuration of which `flat` gave `options`; an option that they lack has its default."""
    groups = {}
    for group in dataclasses.fields(kind):
        assert isinstance(group.type, type)
        known = {f.name: options[f.name] for f in dataclasses.fields(group.type) if f.name in options}
        groups[group.name] = group.type(**known)
    return kind(**groups)


def identity(options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `flat` that a run and its continuation must share; a run goes on after epjax learnt a new option."""
    asked = {name: value for name, value in options.items() if name not in YOUNGER or value != YOUNGER[name]}
    return {name: value for name, value in asked.items() if name not in MAY_CHANGE}


def describe(config: Config, recipe: Config) -> str:
    """Every option, a line for each group, with the recipe's number beside each that differs from it."""
    usual, lines = flat(recipe), []
    for group in dataclasses.fields(config):
        lines.append(f"{group.name}:")
        for name, value in dataclasses.asdict(getattr(config, group.name)).items():
            own = name in ("workdir", "recipe", "data") or value == usual[name]
            lines.append(f"  {name:<20} {value}" + ("" if own else f"   ({config.run.recipe}: {usual[name]})"))
    return "\n".join(lines)


def store(options: Mapping[str, Any], path: Path) -> None:
    """Write `options` as JSON, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(dict(options), indent=2) + "\n")
    partial.replace(path)
