"""Train ResNet-50 with GroupNorm on ImageNet by equilibrium propagation.

The network is that of He et al., arXiv:1512.03385, with GroupNorm (Wu and He, arXiv:1803.08494, who report
24.1% top-1 error by backpropagation in 100 epochs) in the place of BatchNorm, which would mix the examples. It
is a predictive coding network of 18 layers, a block a layer. Nobody has yet trained it on ImageNet with this code.

    IMAGENET_DIR=/data/imagenet python -m experiments.imagenet_resnet50 --workdir runs/resnet50
    IMAGENET_DIR=/data/imagenet python -m experiments.imagenet_resnet50 --workdir runs/bp --algorithm bp
    python -m experiments.imagenet_resnet50 --workdir runs/demo --data demo
"""

from dataclasses import dataclass

import epjax
from epjax import models
from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train ResNet-50 by equilibrium propagation, or by backpropagation to compare.

Recipes: demo, a narrow network in minutes.

standard, the usual one for ResNet-50 on ImageNet, with one sweep.

The defaults below are those for the data at hand, or of --recipe."""

SMALL = 64
"""Up to this image size the stem is a 3x3 convolution without pooling."""


@dataclass(frozen=True)
class Network:
    """ResNet-50 with GroupNorm, a block a layer. For images of up to 64x64 the stem does not shrink them."""

    width: float = 1.0
    """Multiplies the channels and the groups of their normalisation."""

    title = "ResNet-50"

    def make(self, num_classes: int, images: Images, precision: Precision) -> epjax.Network:
        """ResNet-50, its stem by the size of the images."""
        small = images.image_size <= SMALL
        return models.resnet50(num_classes, width=self.width, small_images=small, precision=precision)


GRADIENT = Gradient(traversal="sweep", beta=0.001, label_smoothing=0.1)

STANDARD = Recipe(
    GRADIENT,
    Optimiser(
        epochs=90,
        warmup_epochs=5,
        batch_size=256,
        learning_rate=0.1,
        final_learning_rate=0.0,
        weight_decay=1e-4,
        cosine="step",
    ),
)
"""Batch 256, SGD with Nesterov momentum 0.9, learning rate 0.1 after 5 epochs of warm-up, a cosine to 0 at every step
over 90 epochs, weight decay 1e-4, label smoothing 0.1, random-resized crop and flip (arXiv:1706.02677, 1812.01187).

The decay is of every parameter, biases and normalisation too, as in PyTorch's SGD.
"""

DEMO = Recipe(
    GRADIENT,
    Optimiser(
        epochs=5,
        warmup_epochs=1,
        batch_size=32,
        learning_rate=0.02,
        final_learning_rate=0.0,
        weight_decay=1e-4,
        cosine="step",
    ),
    Network(width=0.125),
    Images(image_size=32, crop="pad"),
)

EXPERIMENT = Experiment(
    name="imagenet_resnet50",
    about=ABOUT,
    network=Network(),
    images=Images(),
    recipes={"standard": STANDARD, "demo": DEMO, "quick": DEMO.quick()},
)
