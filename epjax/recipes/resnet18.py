"""Train ResNet-18 with GroupNorm on CIFAR-10 and other images of 32x32 by equilibrium propagation.

The network is that of He et al., arXiv:1512.03385, with a 3x3 stem for small images and GroupNorm
(arXiv:1803.08494) in the place of BatchNorm, as a predictive coding network with a block a layer.

    python -m experiments.resnet18 --workdir runs/ep --dataset cifar10 --data /data/cifar10
    python -m experiments.resnet18 --workdir runs/bp --dataset cifar10 --data /data/cifar10 --algorithm bp
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import epjax
from epjax import models
from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import SmallImages

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train ResNet-18 by equilibrium propagation, or by backpropagation to compare.

The defaults below are the usual recipe for CIFAR."""


@dataclass(frozen=True)
class Network:
    """ResNet-18 with GroupNorm and a 3x3 stem, a block a layer."""

    width: float = 1.0
    """Multiplies the channels and the groups of their normalisation."""

    title = "ResNet-18"

    def make(self, num_classes: int, images: SmallImages, precision: Precision) -> epjax.Network:
        """ResNet-18."""
        del images
        return models.resnet18(num_classes, width=self.width, small_images=True, precision=precision)


def recipes(asked: Any) -> Mapping[str, Recipe]:
    """Batch 128, rate 0.1 with a cosine at every step over 200 epochs, weight decay 5e-4 on every parameter.

    And a quick one: a narrow network, one epoch at most.
    """
    standard = Recipe(
        Gradient(traversal="sweep", beta=0.001),
        Optimiser(
            epochs=200,
            warmup_epochs=0,
            batch_size=128,
            learning_rate=0.1,
            final_learning_rate=0.0,
            weight_decay=5e-4,
            cosine="step",
        ),
        images=SmallImages(dataset=asked.images.dataset),
    )
    quick = replace(
        standard,
        optimiser=replace(standard.optimiser, epochs=1, batch_size=32, learning_rate=0.02, weight_decay=1e-4),
        network=Network(width=1 / 16),
    )
    return {"standard": standard, "quick": quick.quick()}


EXPERIMENT = Experiment(name="resnet18", about=ABOUT, network=Network(), images=SmallImages(), recipes=recipes)
