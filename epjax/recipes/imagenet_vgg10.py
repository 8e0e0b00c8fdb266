"""Train VGG10 on ImageNet by equilibrium propagation.

Paper: Kerjan, Scellier, Hoier, "Training a Predictive Coding Network on ImageNet using Equilibrium
Propagation", arXiv:2606.03584. Its results on ImageNet at 224x224 (top-1 / top-5 error, %):
centered EP 33.81 / 13.23, random-sign EP 34.73 / 14.02, backpropagation 32.35 / 12.20.

    IMAGENET_DIR=/data/imagenet python -m experiments.imagenet_vgg10 --workdir runs/vgg10
    python -m experiments.imagenet_vgg10 --workdir runs/demo --data demo

The second trains a narrow VGG10 by centered EP on the 3,000 images that come with the package: 18.4% top-1
error on the 500 for validation after ten epochs, the mean of five seeds (17.0 to 20.4; experiments/results/demo.json).
"""

from dataclasses import dataclass

import epjax
from epjax import models
from epjax.estimator import USUAL_BETA
from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train VGG10 by equilibrium propagation, or by backpropagation to compare.

Recipes: demo, a narrow network in minutes.

sweep, the paper's for ImageNet by one sweep at a hundredth of its beta.

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

    @property
    def title(self) -> str:
        """With skips it has another name."""
        return "VGG10Skip" if self.skip else "VGG10"

    def make(self, num_classes: int, images: Images, precision: Precision) -> epjax.Network:
        """VGG10, or VGG10Skip."""
        del images
        options = {"width": self.width, "gain": self.gain, "skip": self.skip}
        return models.vgg10(num_classes, precision=precision, **options)  # type: ignore[arg-type]


SWEEP = Recipe(Gradient(traversal="sweep", beta=USUAL_BETA["carried"]))
"""The paper's recipe with its equilibria found by one sweep, at a hundredth of the paper's beta: carried errors are
nearer to the exact gradient then, and training is no less stable (experiments/results/defaults)."""

PAPER = Recipe(Gradient(errors="recomputed"))
"""Batch 256, beta 0.05, K = 10, learning rate 0.02 to 2e-6 in 50 epochs, weight decay 2e-4, gain 1.

Even/odd traversal, errors recomputed as differences of states: what the paper's code and a physical system
measure.
"""

DEMO = Recipe(
    Gradient(traversal="sweep", beta=USUAL_BETA["carried"]),
    Optimiser(epochs=10, batch_size=32, learning_rate=0.02, cosine="step"),
    Network(width=0.25, gain=2.45),
    Images(image_size=32, crop="pad"),
)

EXPERIMENT = Experiment(
    name="imagenet_vgg10",
    about=ABOUT,
    network=Network(),
    images=Images(),
    recipes={"sweep": SWEEP, "paper": PAPER, "demo": DEMO, "quick": DEMO.quick()},
)
