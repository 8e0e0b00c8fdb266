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

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import epjax
from epjax import models
from experiments import command, imagenet
from experiments.config import Gradient, Optimiser, Run
from experiments.imagenet import ImageNetConfig, Images
from experiments.task import Task

NAME = "imagenet_vgg10"
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
class VGG10Config(ImageNetConfig):
    """VGG10 on images."""

    network: Network = field(default_factory=Network)


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


def choose(asked: VGG10Config) -> VGG10Config:
    """The defaults for what was asked."""
    return imagenet.choose(asked, recipes)


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
    title = "VGG10Skip" if config.network.skip else "VGG10"
    return imagenet.make_task(NAME, title, config, make_network)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return command.main(NAME, VGG10Config, choose, make_task, argv, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
