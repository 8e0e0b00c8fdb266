"""The trained network of a run, from its work directory alone: its training data need not be there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import Array

from epjax import Network
from epjax.data import BadImage, Example, Transform, Vocabulary, Window, transforms
from epjax.data.sources.words import readable
from epjax.network import Params
from epjax.runs import records
from epjax.runs.config import Config, Gradient, unflat
from epjax.runs.experiment import find
from epjax.runs.metrics import best
from epjax.runs.task import output
from epjax.systems import System, as_system
from epjax.training.checkpoint import describe, read_params, saved_steps
from epjax.training.step import Normalise


@dataclass(frozen=True)
class Trained:
    """Network and parameters after `step` steps, and the way from an image file to its input."""

    config: Config
    network: Network | System
    params: Params
    step: int
    classes: tuple[str, ...]
    transform: Transform
    normalise: Normalise
    words: Mapping[str, str] = field(default_factory=dict)
    token: str = ""

    @property
    def vocabulary(self) -> Vocabulary:
        """Of a language model. Raises ValueError where the run learnt images."""
        if not self.token:
            raise ValueError("workdir must be that of a language model, but its network takes images: epjax predict")
        return Vocabulary(self.config.images.tokens, self.classes)  # type: ignore[attr-defined]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as people read them: 'n01440764 tench' where there is a word for a WordNet ID."""
        return tuple(readable(name, self.words) for name in self.classes)

    def pixels(self, path: Path) -> np.ndarray:
        """The image as the network was evaluated on it, uint8 [H, W, C].

        Raises BadImage, naming the file, and ValueError for a language model.
        """
        if self.token:
            raise ValueError(f"the network takes a text, no images: epjax sample goes on with one, got {path}")
        try:
            example = Example(path.read_bytes(), 0, str(path))
        except OSError as error:
            raise BadImage(f"{path} cannot be read: {error.strerror}") from None
        return self.transform(example, np.random.default_rng(0))

    def outputs(self, pixels: np.ndarray) -> Array:
        """The free outputs [B, classes] for uint8 images [B, H, W, C]."""
        return _outputs(self.config.gradient, self.network, self.params, self.normalise(jax.device_put(pixels)))


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(options: Gradient, network: Network | System, params: Params, x: Array) -> Array:
    return jax.vmap(lambda one: output(options, network)(params, one)[-1])(x)


def load(workdir: Path, checkpoint: str = "best") -> Trained:
    """The network of the run in `workdir`; `checkpoint` is best (validation top-1 error, or cost of a text), newest, or
    a step.

    A run that averages its parameters evaluates the average, and that is what is loaded.
    Raises FileNotFoundError where there is no run or no checkpoint, ValueError for a checkpoint that is not kept,
    OSError for one that cannot be read.
    """
    run = records.read(workdir)
    if not run.model:
        raise FileNotFoundError(
            f"{workdir} holds no model.json, which says what the network takes: give the run's own command again,"
            " which adds it"
        )
    model, experiment = run.model, find(run.model["experiment"])
    config = unflat(experiment.config, run.config)
    network = experiment.make_network(config, len(run.classes))
    kind = model["transform"].pop("kind")
    transform = (Window if kind == Window.__name__ else getattr(transforms, kind))(**model["transform"])
    step = _step(run, checkpoint)
    shapes = jax.eval_shape(partial(network.init, input_shape=transform.shape), jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = describe(shapes, jax.tree.map(lambda _: here, shapes))
    params = read_params(workdir / "checkpoints", step, like, averaged=config.optimiser.ema is not None)
    as_system(network).check_values(params, np.zeros((1, *transform.shape), np.float32))
    normalise = Normalise(tuple(model["mean"]), tuple(model["std"]))
    token = model.get("token", "")
    return Trained(config, network, params, step, run.classes, transform, normalise, run.words, token)


def _step(run: records.Run, checkpoint: str) -> int:
    kept = saved_steps(run.directory / "checkpoints")
    if not kept:
        raise FileNotFoundError(f"{run.directory} holds no checkpoint yet")
    if checkpoint == "newest":
        return kept[-1]
    if checkpoint == "best":
        evaluated = [line for line in run.evaluations if line["step"] in kept]
        return (best(evaluated) or {"step": kept[-1]})["step"]
    if not checkpoint.isdigit() or int(checkpoint) not in kept:
        steps = ", ".join(map(str, kept))
        raise ValueError(f"checkpoint must be best, newest or one of the steps {steps}, got {checkpoint!r}")
    return int(checkpoint)
