"""An experiment: a network, data and recipes under one name. From it come a command and all that a run needs."""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from epjax.network import Network
from epjax.network.precision import Precision
from epjax.runs import command
from epjax.runs.config import Config, Gradient, Optimiser, parse, pick
from epjax.runs.images import DataOptions, Images
from epjax.runs.precision import settled
from epjax.runs.task import Task
from epjax.systems import System

ROOM = "epjax.recipes"
"""The package whose modules are the experiments that epjax comes with, one each, as EXPERIMENT."""


class NetworkOptions(Protocol):
    """A frozen dataclass of options that makes a network; its docstring heads them in `--help-all`."""

    @property
    def title(self) -> str:
        """What the network is called in pictures."""
        ...

    def make(self, num_classes: int, images: Any, precision: Precision) -> Network | System:
        """The network, or another system, for so many classes, for images as `images` says."""
        ...


QUICK = 1000
"""Steps of a recipe that is to show in minutes that it learns."""


@dataclass(frozen=True)
class Recipe:
    """A set of defaults; `network` and `images` None: those of the experiment. `max_steps` ends it there."""

    gradient: Gradient = field(default_factory=Gradient)
    optimiser: Optimiser = field(default_factory=Optimiser)
    network: Any = None
    images: Any = None
    max_steps: int | None = None

    def quick(self, max_steps: int = QUICK) -> "Recipe":
        """The same, ended after so many steps: minutes on two cores, whatever the size of the data."""
        return replace(self, max_steps=max_steps)


Recipes = Mapping[str, Recipe] | Callable[[Any], Mapping[str, Recipe]]
"""By name, the first one is the default; or a function that makes them for the options asked for."""


@dataclass(frozen=True)
class Experiment:
    """`network` and `images` are options (frozen dataclasses with defaults); `about` heads the help text.

    `source` is the Python file it stands in, for one that epjax does not come with; `find` and `main` fill it in.

    ``EXPERIMENT.main(argv)`` is its command: train, go on, report, and give an exit code. Raises ValueError without a
    recipe, and for a name that is no file name.
    """

    name: str
    about: str
    network: NetworkOptions
    recipes: Recipes
    images: DataOptions = field(default_factory=Images)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name must be made of letters, digits and _, got {self.name!r}")
        if not callable(self.recipes) and not self.recipes:
            raise ValueError("recipes must hold at least one Recipe, got none")

    @cached_property
    def config(self) -> type[Config]:
        """The configuration: what every experiment has, and the two groups of this one."""
        groups = [("network", type(self.network), self.network), ("images", type(self.images), self.images)]
        made = [(name, kind, field(default=default)) for name, kind, default in groups]
        return dataclasses.make_dataclass(f"{self.name}_config", made, bases=(Config,), frozen=True)

    def choose(self, asked: Any) -> Any:
        """The defaults for what was asked: those of `--recipe`, or of the recipe for the data."""
        recipes = self.recipes(asked) if callable(self.recipes) else self.recipes
        name = asked.images.recipe(recipes) if asked.run.recipe == "auto" else asked.run.recipe
        recipe = pick(recipes, name)
        steps = recipe.max_steps if asked.run.max_steps is None else asked.run.max_steps
        return self.config(
            replace(asked.run, recipe=name, max_steps=steps),
            recipe.gradient,
            recipe.optimiser,
            network=self.network if recipe.network is None else recipe.network,  # type: ignore[call-arg]
            images=self.images if recipe.images is None else recipe.images,
        )

    def parse(self, argv: Sequence[str] | None, prog: str | None = None) -> Any:
        """The configuration that a command line asks for."""
        return parse(self.config, self.choose, argv, prog or f"python -m experiments.{self.name}", self.about)

    def make_network(self, config: Any, num_classes: int) -> Network | System:
        """The network, or another system, for so many classes; as it is built where the options say so."""
        config, _ = settled(config, config)
        made: Network | System = config.network.make(num_classes, config.images, config.gradient.precision)
        return config.hardware.of(made)  # type: ignore[no-any-return]

    def make_task(self, config: Any) -> Task:
        """Open the data, make the network for their classes."""
        dataset = config.images.open()
        network = self.make_network(config, len(dataset.classes))
        return Task(
            self.source or self.name, config.network.title, network, dataset, *config.images.transforms(dataset)
        )

    def at(self, source: Path) -> "Experiment":
        """The same, standing in a Python file; itself where epjax comes with it, and not with another of its name."""
        ours = self.name in names() and find(self.name) is self
        return self if ours else replace(self, source=str(source.absolute()))

    def main(self, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
        """The command: 0 done, 1 an error in one sentence, 2 unknown options, 75 stopped by a signal."""

        def read() -> tuple[Config, Config, Callable[[Config], Task]]:
            config = self.parse(argv, prog)
            return config, self.choose(config), located.make_task

        main = sys.modules["__main__"]
        located = self if getattr(main, "EXPERIMENT", None) is not self else self.at(Path(str(main.__file__)))

        return command.run(read)


def names() -> list[str]:
    """The experiments that epjax comes with."""
    return sorted(found.name for found in pkgutil.iter_modules(importlib.import_module(ROOM).__path__))


def find(name: str) -> Experiment:
    """The experiment of that name, or the EXPERIMENT in a Python file.

    Raises ValueError for a name that epjax does not come with and a file without an experiment.
    """
    if name in names():
        experiment = importlib.import_module(f"{ROOM}.{name}").EXPERIMENT
    elif name.endswith(".py"):
        path = Path(name)
        experiment = getattr(_load(path), "EXPERIMENT", None)
        if isinstance(experiment, Experiment):
            experiment = experiment.at(path)
    else:
        raise ValueError(f"experiment must be one of {', '.join(names())}, or a Python file, got {name!r}")
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{name} must define EXPERIMENT, an epjax.runs.Experiment")
    return experiment


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"experiment {path} is not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
