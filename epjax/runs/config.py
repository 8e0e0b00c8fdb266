"""The configuration of a run: one frozen dataclass, defaults from a named recipe, explicit options win.

The command line is read twice: once to learn which data and recipe are asked for, and again with that
recipe's numbers as the defaults. So `--help-all` shows the defaults that hold for the data at hand.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import tyro

from epjax.cost import COSTS
from epjax.estimator import Phases
from epjax.network.precision import Precision
from epjax.perturbation import PERTURBATIONS
from epjax.runs import help
from epjax.runs.algorithm import ALGORITHMS
from epjax.runs.device import Hardware
from epjax.runs.loggers import LOGGERS
from epjax.runs.option import BEFORE, EACH, NUMBERS, option
from epjax.scheme import SCHEMES
from epjax.systems import EQUILIBRATIONS
from epjax.systems.relax import Order
from epjax.systems.sharing import Sharing
from epjax.systems.solution import Errors
from epjax.training.optimiser import OPTIMISERS, SCHEDULES

if TYPE_CHECKING:
    SchemeName: TypeAlias = str
    PerturbationName: TypeAlias = str
    CostName: TypeAlias = str
    TraversalName: TypeAlias = str
    AlgorithmName: TypeAlias = str
    OptimiserName: TypeAlias = str
    ScheduleName: TypeAlias = str
    LoggerName: TypeAlias = str
else:  # what there is, and nothing else, can be asked for
    SchemeName, PerturbationName, CostName, TraversalName, AlgorithmName, OptimiserName, ScheduleName, LoggerName = (
        tyro.extras.literal_type_from_choices(tuple(table))
        for table in (SCHEMES, PERTURBATIONS, COSTS, EQUILIBRATIONS, ALGORITHMS, OPTIMISERS, SCHEDULES, LOGGERS)
    )


def whole_steps(options: Mapping[str, Any]) -> Any:
    """The relaxation that is none: a clamped output used to go all of the way."""
    clamped = options["perturbation"] == "clamp" and options["traversal"] in ("sweep", "async")
    return 1.0 if clamped else None


def own_products(options: Mapping[str, Any]) -> Any:
    """Each phase of a sweep used to have its own product of the weights; two phases share one by now."""
    two = options["algorithm"] == "ep" and options["scheme"] == "centered" and options["traversal"] == "sweep"
    return "own" if two and options["errors"] == "carried" and options["phases"] == "together" else None


def own_pulls(options: Mapping[str, Any]) -> Any:
    """Each phase used to pull its errors through a block once more; one sweep takes them from its pass down by now."""
    one = options["algorithm"] == "ep" and options["traversal"] == "sweep" and options["sweeps"] == 1
    return "own" if one and options["errors"] == "carried" and options["phases"] == "together" else None


@dataclass(frozen=True)
class Run:
    """Where it runs and how it reports. The same command goes on where a run in DIR was stopped."""

    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = option(numbers=False, each=True)
    """Folder for checkpoints, metrics.jsonl, config.json and the learning curve."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = option("auto", numbers=False)
    """Named set of defaults; auto picks one by the data."""
    seed: int = 0
    """Initial weights, order of the data, augmentation and random signs follow from it."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = option(None, numbers=False)
    """Runs, one after the other, of SEED, SEED + 1, ..., in DIR/seed-0, ...; then their mean and spread. None: one."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = option(None, numbers=False)
    """Stop after this many steps in all, wherever the learning rate is then."""
    log_every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Steps between training lines in metrics.jsonl; None: ten lines an epoch, at most 100 steps apart."""
    eval_every: int = 1
    """Epochs between evaluations. The last step is always evaluated."""
    checkpoint_every: int = option(1000, numbers=False)
    """Steps between checkpoints, beside the one at every evaluation."""
    keep: int = option(3, numbers=False)
    """Checkpoints to keep, beside the best."""
    model_parallel: int = option(1, numbers=False)
    """Devices that share one copy of the parameters (the model axis of the mesh)."""
    microbatches: int = option(1, numbers=False)
    """Slices of the batch, on each device, whose gradients are computed one after the other, in less memory."""
    on_nan: Literal["stop", "skip"] = option("stop", numbers=False)
    """Stop at a NaN or infinity in cost, gradient or (with --tolerance) residual; or skip and count the step."""
    diagnose_every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = option(None, numbers=False)
    """Steps between diagnoses of the EP gradient, beside backpropagation's, on up to 32 images; None: none."""
    max_skipped: int = option(10, numbers=False)
    """Stop all the same when more steps than this are skipped in a row, with --on-nan skip."""
    log_to: Annotated[tuple[LoggerName, ...], tyro.conf.arg(metavar="NAME")] = option(("tensorboard",), numbers=False)
    """Where the lines of metrics.jsonl go as well: tensorboard, csv, wandb (which needs epjax[wandb])."""
    show_config: bool = option(False, numbers=False)
    """Print every option before the first step, beside the recipe's."""


@dataclass(frozen=True)
class Gradient:
    """How the gradient is estimated."""

    algorithm: AlgorithmName = "ep"
    """Equilibrium propagation; or, of the same network: backpropagation, the exact gradient (a network's is the same),
    predictive coding's inference learning, error optimisation, incremental learning. A system that settles has ep and
    exact."""
    scheme: SchemeName = "centered"
    """Which nudged phases: both signs, one sign, a random sign for each image, or complex strengths."""
    points: int = option(1, before=1)
    """N strengths of either sign (centered), or half the roots of unity (holomorphic): error O(beta^2N) if smooth."""
    cost: CostName = "cross_entropy"
    """What the output is nudged to lower."""
    label_smoothing: float = option(0.0, before=0.0)
    """Share of each training label that is spread evenly over all classes."""
    perturbation: PerturbationName = "nudge"
    """Nudge the output by the gradient of the cost, or clamp it towards the target."""
    beta: float = 0.05
    """Nudging strength, positive."""
    beta_guard: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(None, before=None)
    """Lower an image's beta so that its nudge moves the output by less than this share of its norm; None: do not."""
    traversal: TraversalName = "async"
    """Order of the layer updates: even then odd layers, all at once, or sweeps."""
    iterations: int = 10
    """K, the iterations of async and sync."""
    sweeps: int = 1
    """Sweeps down and up the layers, with --traversal sweep."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop the nudged phase at this residual; None: run all iterations."""
    order: Order = option("auto", before="auto")
    """Order of the blocks, with --traversal relax: from the input up, from the output down, even then odd, all at once;
    auto: up in the free phase, down in the nudged one."""
    over: Annotated[float | Literal["auto"], tyro.conf.arg(metavar="FLOAT|auto")] = option(1.0, before=1.0)
    """Over-relaxation w of --traversal relax, between 0 and 2; auto: by the measured rate."""
    free_iterations: int = option(200, before=200)
    """Passes of a free phase that is iterated, at most."""
    free_tolerance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(1e-6, before=1e-6)
    """Stop the free phase at this residual; None: run all its iterations."""
    update: Literal["mod_pgd", "pgd"] = "mod_pgd"
    """Rectify drive plus signal (mod_pgd), or step from the state and project (pgd)."""
    step_size: float = 1.0
    """alpha of pgd; mod_pgd has 1."""
    relaxation: Annotated[float | Literal["auto"] | None, tyro.conf.arg(metavar="FLOAT")] = option(
        None, before=whole_steps
    )
    """Share of the way that the output's error goes in a sweep, or measured: auto; None: auto for a clamp, else 1."""
    signals: Sharing = option("own", before="own")
    """The first sweep's signals: each phase its own, or one pass down shared by all, linear in beta."""
    products: Sharing | None = option(None, before=own_products)
    """A sweep's weight gradient: one product at the mean state, or each phase its own; None: shared if it can be."""
    pulls: Sharing | None = option(None, before=own_pulls)
    """Of errors through the inside of a block: once, on the pass down, or in each phase; None: once if it can be."""
    inference_steps: int = option(20, before=20)
    """T of il, epc and ipc: steps of states or errors (ipc: of the parameters too) for each batch."""
    inference_rate: float = option(0.1, before=0.1)
    """alpha of those steps."""
    errors: Errors = "carried"
    """Carry the prediction errors, or recompute them as differences of states."""
    phases: Phases = "together"
    """The two nudged phases in one call, or one after the other in less memory."""
    precision: Precision | Literal["auto"] = "auto"
    """Precision of products; auto: float32 on CPU, tf32 on NVIDIA GPUs that have it, bfloat16 on TPU. Parameters and
    optimiser are float32 always."""


@dataclass(frozen=True)
class Optimiser:
    """What is done with the gradient. The recipes' numbers are SGD's: give another optimiser a --learning-rate of its
    own."""

    epochs: int = 50
    """Length of the run: warm-up and schedule."""
    warmup_epochs: int = option(0, before=0)
    """Epochs in which the learning rate rises, at every step, to its full height."""
    batch_size: int = 256
    """Images in a step, over all devices."""
    optimiser: OptimiserName = option("sgd", before="sgd")
    """SGD with Nesterov momentum, or optax's own; muon orthogonalises matrices, all else goes by adam within."""
    schedule: ScheduleName = option("cosine", before="cosine")
    """Of the learning rate, after the warm-up."""
    learning_rate: float = 0.02
    """Before the decay."""
    final_learning_rate: float = 2e-6
    """After the decay; a constant has none."""
    decay_share: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(None, before=None)
    """Share of the epochs after the warm-up in which warmup-stable-decay falls; None: 0.2."""
    layer_rates: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT")] = option((), before=())
    """Times the learning rate, for each layer from the first; none: 1."""
    momentum: float = option(0.9, before=0.9)
    """Nesterov's of sgd, b1 of adam, adamw and lion, beta of muon; 0: none."""
    weight_decay: float = 2e-4
    """Times the parameter, joins every gradient before the momentum; past it with adamw, lion and muon."""
    decay_norms: bool = option(True, before=True)
    """Whether biases and the scales of norms decay too."""
    clip_norm: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(None, before=None)
    """The gradient's norm over all layers, at most; None: as it is."""
    ema: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = option(None, before=None)
    """Decay of a moving average of the parameters, which is then evaluated and used to predict; None: none."""
    cosine: Literal["epoch", "step"] = "epoch"
    """Lower the learning rate once an epoch, or at every step, whatever the schedule."""


@dataclass(frozen=True)
class Feed:
    """How images are read."""

    num_workers: int = option(0, numbers=False, each=True)
    """Processes that decode; 0: decode in this process."""
    num_threads: int = option(2, numbers=False, each=True)
    """Threads that decode, in each process."""
    on_bad_image: Literal["stop", "skip"] = option("stop", numbers=False)
    """Stop at an image that cannot be decoded, naming it; or skip, count and report it."""


@dataclass(frozen=True)
class Processes:
    """One run on many hosts: the same command on each, with a --process-id of its own. Slurm, Cloud TPU and Kubernetes
    tell each process by themselves."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = option(None, numbers=False, each=True)
    """Where process 0 listens for the others."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = option(None, numbers=False)
    """How many there are; 1 alone: this one, whatever the launcher says."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = option(None, numbers=False, each=True)
    """Which one this is, from 0. Process 0 writes the metrics and the pictures."""


@dataclass(frozen=True)
class Config:
    """What every experiment has; each adds its network and its data."""

    run: Run
    gradient: Gradient = field(default_factory=Gradient)
    optimiser: Optimiser = field(default_factory=Optimiser)
    feed: Feed = field(default_factory=Feed)
    processes: Processes = field(default_factory=Processes)
    hardware: Hardware = field(default_factory=Hardware)


C = TypeVar("C", bound=Config)
T = TypeVar("T")


def parse(kind: type[C], choose: Callable[[C], C], argv: Sequence[str] | None, prog: str, about: str) -> C:
    """The configuration from the command line; `choose` gives the defaults for what a first reading found.

    The recipe's name in the result is the one that was chosen. Asked for help it prints it, and ends.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    asked = [word for word in argv if word not in (*help.ASKED, help.ALL)]
    defaults = choose(_read(kind, kind(Run(Path())), asked, prog, about))
    if help.is_asked(argv):
        print(help.short_help(prog, about, flat(defaults)))
        raise SystemExit(0)
    argv = ["--help" if word == help.ALL else word for word in argv]
    unset = replace(defaults, run=replace(defaults.run, workdir=tyro.MISSING, recipe="auto", show_config=False))
    config = _read(kind, unset, argv, prog, about)
    return replace(config, run=replace(config.run, recipe=defaults.run.recipe))


def pick(recipes: Mapping[str, T], name: str) -> T:
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
    return {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def unflat(kind: type[C], options: Mapping[str, Any]) -> C:
    """The configuration of which `flat` gave `options`; an option that they lack has its default."""
    groups = {}
    for group in dataclasses.fields(kind):
        assert isinstance(group.type, type)
        known = {f.name: _held(options[f.name]) for f in dataclasses.fields(group.type) if f.name in options}
        groups[group.name] = group.type(**known)
    return kind(**groups)


def _held(value: Any) -> Any:
    """As an option holds it: what is many is a tuple."""
    return tuple(value) if isinstance(value, list) else value


def fields(config: Config) -> dict[str, Field[Any]]:
    """Every option's field by its name."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    return {one.name: one for group in groups for one in dataclasses.fields(group)}


def identity(config: Config) -> dict[str, Any]:
    """The part of `flat` that a run and its continuation must share; a run goes on after epjax learnt a new option."""
    known, options = fields(config), flat(config)
    kept = {name: value for name, value in options.items() if known[name].metadata.get(NUMBERS, True)}

    def as_before(name: str) -> bool:
        before = known[name].metadata.get(BEFORE, MISSING)
        return bool(kept[name] == _plain(before(options) if callable(before) else before))

    return {name: value for name, value in kept.items() if not as_before(name)}


def shared(config: Config) -> dict[str, Any]:
    """The part of `flat` in which the processes of one run must be alike."""
    known = fields(config)
    return {name: value for name, value in flat(config).items() if not known[name].metadata.get(EACH, False)}


def describe(config: Config, recipe: Config) -> str:
    """Every option, a line for each group, with the recipe's number beside each that differs from it."""
    usual, lines = flat(recipe), []
    for group in dataclasses.fields(config):
        lines.append(f"{group.name}:")
        for name, given in dataclasses.asdict(getattr(config, group.name)).items():
            value = _plain(given)
            own = name in ("workdir", "recipe", "data", "show_config") or value == usual[name]
            lines.append(f"  {name:<20} {value}" + ("" if own else f"   ({config.run.recipe}: {usual[name]})"))
    return "\n".join(lines)


def store(options: Mapping[str, Any], path: Path) -> None:
    """Write `options` as JSON, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(dict(options), indent=2) + "\n")
    partial.replace(path)
