"""Train VGG10 on ImageNet by equilibrium propagation.

Paper: Kerjan, Scellier, Hoier, "Training a Predictive Coding Network on ImageNet using Equilibrium
Propagation", arXiv:2606.03584. Its results on ImageNet at 224x224 (top-1 / top-5 error, %):
centered EP 33.81 / 13.23, random-sign EP 34.73 / 14.02, backpropagation 32.35 / 12.20.

    IMAGENET_DIR=/data/imagenet python -m experiments.imagenet_vgg10 --workdir runs/vgg10
    python -m experiments.imagenet_vgg10 --workdir runs/demo --data demo

The second trains a narrow VGG10 by centered EP on the 3,000 images that come with the package: 17.8% top-1
error on the 500 for validation after ten epochs (seed 0), for 140 seconds of processor time, compilation
included.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import epjax
from epjax import models
from epjax.data import open_dataset
from epjax.data.transforms import Augmentation
from experiments import command
from experiments.config import Config, Gradient, Optimiser, Run, parse, pick
from experiments.task import Task

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train VGG10 by equilibrium propagation, or by backpropagation to compare.

Recipes: demo, a narrow network in minutes.

sweep, the paper's for ImageNet with one sweep for its equilibria.

paper, the same with ten even/odd iterations, at five times the work.

The defaults below are those for the data at hand, or of --recipe."""


@dataclass(frozen=True)
class Network:
    """VGG10: eight 3x3 convolutions, two dense layers."""

    width: float = 1.0
    """Multiplies the channels of the convolutions."""
    gain: float = 1.0
    """Initial weights are uniform in +- gain * sqrt(1 / fan)."""
    skip: bool = False
    """VGG10Skip: learned connections from layer 2 to 5 and from layer 5 to 8."""


@dataclass(frozen=True)
class Images:
    """Which images, and what is done to them."""

    data: str = "auto"
    """folder:PATH (with train/CLASS and val/CLASS), tar:PATH, tfds:NAME@DIR, a path that is recognised, demo,
    or auto: the folder that IMAGENET_DIR names, else the demo."""
    image_size: int = 224
    """Height and width that the network sees."""
    crop: Augmentation = "resized"
    """In training: a random part resized (resized), a random square of the image resized to 8/7 of the size
    (random), a random square of the image padded by 4 (pad); each with a random flip; or the image (none)."""


@dataclass(frozen=True)
class VGG10Config(Config):
    """VGG10 on images."""

    network: Network = field(default_factory=Network)
    images: Images = field(default_factory=Images)


PAPER = "paper"
"""Batch 256, beta 0.05, K = 10, learning rate 0.02 to 2e-6 in 50 epochs, weight decay 2e-4, gain 1.

Even/odd traversal, errors recomputed as differences of states: what the paper's code and a physical system
measure.
"""

SWEEP = "sweep"
"""The paper's recipe with its equilibria found by one sweep: at least as close to the exact gradient as ten even/odd
iterations (benchmarks/RESULTS.md) for 7 forward-equivalents instead of 45."""


def recipes(run: Run) -> dict[str, VGG10Config]:
    """The named sets of defaults."""
    return {
        SWEEP: VGG10Config(run, gradient=Gradient(traversal="sweep")),
        PAPER: VGG10Config(run, gradient=Gradient(errors="recomputed")),
        "demo": VGG10Config(
            run,
            gradient=Gradient(traversal="sweep", beta=0.05),
            optimiser=Optimiser(epochs=10, batch_size=32, learning_rate=0.02, cosine="step"),
            network=Network(width=0.25, gain=2.45),
            images=Images(image_size=32, crop="pad"),
        ),
    }


def uses_demo(spec: str) -> bool:
    """Whether `--data spec` means the embedded demo."""
    return spec == "demo" or (spec == "auto" and not os.environ.get("IMAGENET_DIR"))


def choose(asked: VGG10Config) -> VGG10Config:
    """The defaults for what was asked: the demo's for the demo, else the sweep's, or those of `--recipe`."""
    name = asked.run.recipe
    if name == "auto":
        name = "demo" if uses_demo(asked.images.data) else SWEEP
    return pick(recipes(replace(asked.run, recipe=name)), name)


CONFIG = VGG10Config
"""What `experiments.trained` makes from config.json."""


def make_network(config: VGG10Config, num_classes: int) -> epjax.Network:
    """VGG10, or VGG10Skip, for that many classes."""
    options = config.network
    return models.vgg10(
        num_classes=num_classes,
        width=options.width,
        gain=options.gain,
        precision=config.gradient.precision,
        skip=options.skip,
    )


def make_task(config: VGG10Config) -> Task:
    """Open the images and make the network for their classes."""
    dataset = open_dataset(config.images.data)
    network = make_network(config, len(dataset.classes))
    transforms = dataset.transforms(config.images.image_size, config.images.crop)
    title = "VGG10Skip" if config.network.skip else "VGG10"
    return Task("imagenet_vgg10", title, network, dataset, *transforms)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def read() -> tuple[VGG10Config, VGG10Config, Callable[[], Task]]:
        config = parse(VGG10Config, choose, argv, "python -m experiments.imagenet_vgg10", ABOUT)
        return config, choose(config), lambda: make_task(config)

    return command.run(read)


if __name__ == "__main__":
    sys.exit(main())
