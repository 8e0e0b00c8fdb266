"""Train ResNet-18 with GroupNorm on CIFAR-10 and other images of 32x32 by equilibrium propagation.

The network is that of He et al., arXiv:1512.03385, with a 3x3 stem for small images and GroupNorm
(arXiv:1803.08494) in the place of BatchNorm, as a predictive coding network with a block a layer.

    python -m experiments.resnet18 --workdir runs/ep --dataset cifar10 --data /data/cifar10
    python -m experiments.resnet18 --workdir runs/bp --dataset cifar10 --data /data/cifar10 --algorithm bp
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import epjax
from epjax import models
from experiments import command, small_images
from experiments.config import Gradient, Optimiser, pick
from experiments.small_images import Images, SmallImagesConfig
from experiments.task import Task

NAME = "resnet18"

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train ResNet-18 by equilibrium propagation, or by backpropagation to compare.

The defaults below are the usual recipe for CIFAR."""


@dataclass(frozen=True)
class Network:
    """ResNet-18 with GroupNorm and a 3x3 stem, a block a layer."""

    width: float = 1.0
    """Multiplies the channels and the groups of their normalisation."""


@dataclass(frozen=True)
class ResNet18Config(SmallImagesConfig):
    """ResNet-18 on small images."""

    network: Network = field(default_factory=Network)


STANDARD = "standard"
"""Batch 128, learning rate 0.1 with a cosine at every step over 200 epochs, weight decay 5e-4 on every parameter."""


def recipes(asked: ResNet18Config) -> dict[str, ResNet18Config]:
    """The named sets of defaults."""
    standard = ResNet18Config(
        replace(asked.run, recipe=STANDARD),
        gradient=Gradient(traversal="sweep", beta=0.001),
        optimiser=Optimiser(
            epochs=200,
            warmup_epochs=0,
            batch_size=128,
            learning_rate=0.1,
            final_learning_rate=0.0,
            weight_decay=5e-4,
            cosine="step",
        ),
        images=Images(dataset=asked.images.dataset),
    )
    return {STANDARD: standard}


def choose(asked: ResNet18Config) -> ResNet18Config:
    """The defaults for what was asked."""
    return pick(recipes(asked), STANDARD if asked.run.recipe == "auto" else asked.run.recipe)


CONFIG = ResNet18Config
"""What `experiments.trained` makes from config.json."""


def make_network(config: ResNet18Config, num_classes: int) -> epjax.Network:
    """ResNet-18 for that many classes."""
    width, precision = config.network.width, config.gradient.precision
    return models.resnet18(num_classes, width=width, small_images=True, precision=precision)


def make_task(config: ResNet18Config) -> Task:
    """Open the images and make the network for their classes."""
    return small_images.make_task(NAME, "ResNet-18", config, make_network)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return command.main(NAME, ResNet18Config, choose, make_task, argv, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
