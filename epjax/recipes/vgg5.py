"""Train VGG5 on MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 or ImageNet32 by equilibrium propagation.

Paper: Kerjan, Scellier, Hoier, "Training a Predictive Coding Network on ImageNet using Equilibrium
Propagation", arXiv:2606.03584. Its test errors with centered EP / backpropagation (%), squared error, then
cross-entropy: MNIST 0.32 / 0.33, 0.45 / 0.48; CIFAR-10 7.8 / 8.0, 9.7 / 9.5; CIFAR-100 30.1 / 30.1, 34.7 /
34.2; ImageNet32 70.8 / 70.7, 60.0 / 59.8.

    python -m experiments.vgg5 --workdir runs/mnist --dataset mnist --data idx:/data/mnist
    python -m experiments.vgg5 --workdir runs/c10 --dataset cifar10 --data /data/cifar10 --cost squared_error
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import epjax
from epjax import models
from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import SmallImages

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train VGG5 by equilibrium propagation, or by backpropagation to compare.

The defaults below are the paper's recipe for the data set and cost asked for."""


@dataclass(frozen=True)
class Network:
    """VGG5: five 3x3 convolutions and a dense layer, for 32x32 images."""

    width: float = 1.0
    """Multiplies the channels of the convolutions."""
    gain: float = 1.0
    """Initial weights are uniform in +- gain * sqrt(1 / fan)."""
    output_gain: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """The gain of the output layer; None: that of the others."""

    title = "VGG5"

    def make(self, num_classes: int, images: SmallImages, precision: Precision) -> epjax.Network:
        """VGG5."""
        del images
        gains = {"gain": self.gain, "output_gain": self.output_gain}
        return models.vgg5(num_classes, width=self.width, precision=precision, **gains)  # type: ignore[arg-type]


def recipes(asked: Any) -> Mapping[str, Recipe]:
    """The paper's recipe: batch and learning rate by the cost, the output's gain by cost and data set. And a quick one:
    a narrow network, one sweep, two epochs."""
    squared = asked.gradient.cost == "squared_error"
    large = asked.images.dataset == "imagenet32"
    paper = Recipe(
        Gradient(cost=asked.gradient.cost, beta=0.02, iterations=5, errors="recomputed"),
        Optimiser(
            epochs=100,
            batch_size=256 if large else 16 if squared else 64,
            learning_rate=0.04 if squared else 0.01,
            final_learning_rate=1e-6,
            weight_decay=3e-4,
        ),
        Network(output_gain=0.2 if squared and large else None),
        SmallImages(dataset=asked.images.dataset),
    )
    quick = Recipe(
        Gradient(cost=asked.gradient.cost, beta=5e-4, traversal="sweep"),
        Optimiser(
            epochs=2,
            batch_size=32,
            learning_rate=0.04 if squared else 0.02,
            final_learning_rate=1e-6,
            weight_decay=3e-4,
            cosine="step",
        ),
        Network(width=1 / 16, gain=1.4),
        SmallImages(dataset=asked.images.dataset),
    )
    return {"paper": paper, "quick": quick.quick()}


EXPERIMENT = Experiment(name="vgg5", about=ABOUT, network=Network(), images=SmallImages(), recipes=recipes)
