"""Train VGG5 on MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 or ImageNet32 by equilibrium propagation.

Paper: Kerjan, Scellier, Hoier, "Training a Predictive Coding Network on ImageNet using Equilibrium
Propagation", arXiv:2606.03584. Its test errors with centered EP / backpropagation (%), squared error, then
cross-entropy: MNIST 0.32 / 0.33, 0.45 / 0.48; CIFAR-10 7.8 / 8.0, 9.7 / 9.5; CIFAR-100 30.1 / 30.1, 34.7 /
34.2; ImageNet32 70.8 / 70.7, 60.0 / 59.8.

    python -m experiments.vgg5 --workdir runs/mnist --dataset mnist --data idx:/data/mnist
    python -m experiments.vgg5 --workdir runs/c10 --dataset cifar10 --data /data/cifar10 --cost squared_error
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

import epjax
from epjax import models
from experiments import command, small_images
from experiments.config import Gradient, Optimiser, pick
from experiments.small_images import Images, SmallImagesConfig
from experiments.task import Task

NAME = "vgg5"
# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train VGG5 by equilibrium propagation, or by backpropagation to compare.

The defaults below are the paper's recipe for the data set and cost asked for."""

PAPER = "paper"


@dataclass(frozen=True)
class Network:
    """VGG5: five 3x3 convolutions and a dense layer, for 32x32 images."""

    width: float = 1.0
    """Multiplies the channels of the convolutions."""
    gain: float = 1.0
    """Initial weights are uniform in +- gain * sqrt(1 / fan)."""
    output_gain: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """The gain of the output layer; None: that of the others."""


@dataclass(frozen=True)
class VGG5Config(SmallImagesConfig):
    """VGG5 on small images."""

    network: Network = field(default_factory=Network)


def recipes(asked: VGG5Config) -> dict[str, VGG5Config]:
    """The paper's recipe: batch and learning rate by the cost, the output's gain by cost and data set."""
    squared = asked.gradient.cost == "squared_error"
    large = asked.images.dataset == "imagenet32"
    paper = VGG5Config(
        replace(asked.run, recipe=PAPER),
        gradient=Gradient(cost=asked.gradient.cost, beta=0.02, iterations=5, errors="recomputed"),
        optimiser=Optimiser(
            epochs=100,
            batch_size=256 if large else 16 if squared else 64,
            learning_rate=0.04 if squared else 0.01,
            final_learning_rate=1e-6,
            weight_decay=3e-4,
        ),
        network=Network(output_gain=0.2 if squared and large else None),
        images=Images(dataset=asked.images.dataset),
    )
    return {PAPER: paper}


def choose(asked: VGG5Config) -> VGG5Config:
    """The defaults for what was asked."""
    name = PAPER if asked.run.recipe == "auto" else asked.run.recipe
    return pick(recipes(asked), name)


CONFIG = VGG5Config
"""What `experiments.trained` makes from config.json."""


def make_network(config: VGG5Config, num_classes: int) -> epjax.Network:
    """VGG5 for that many classes."""
    options = config.network
    return models.vgg5(
        num_classes=num_classes,
        width=options.width,
        gain=options.gain,
        output_gain=options.output_gain,
        precision=config.gradient.precision,
    )


def make_task(config: VGG5Config) -> Task:
    """Open the images and make the network for their classes."""
    return small_images.make_task(NAME, "VGG5", config, make_network)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return command.main(NAME, VGG5Config, choose, make_task, argv, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
