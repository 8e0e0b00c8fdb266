"""Train a multilayer perceptron as a predictive coding network, by equilibrium propagation or backpropagation.

Dense layers with ReLU, of the size of the other physical systems' recipes, to stand beside them.

    python -m experiments.perceptron --workdir runs/perceptron
    python -m experiments.perceptron --workdir runs/perceptron_bp --algorithm bp
"""

from dataclasses import dataclass, replace

import epjax
from epjax import models
from epjax.network import Layer
from epjax.network.activation import relu
from epjax.network.drive import Conv
from epjax.network.precision import Precision
from epjax.runs import plain
from epjax.runs.config import Gradient
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images

ABOUT = plain.about("a multilayer perceptron", beside="backpropagation")


@dataclass(frozen=True)
class Network:
    """A predictive coding network of convolutions, if any, and dense layers, with ReLU."""

    channels: tuple[int, ...] = ()
    """Channels of 3x3 convolutions, each with 2x2 max-pooling, below the dense layers."""
    hidden: tuple[int, ...] = (256,)
    """Units of the hidden dense layers."""
    gain: float = 1.0
    """Initial weights are uniform in +- gain * sqrt(1 / fan_in)."""

    title = "Perceptron"

    def make(self, num_classes: int, images: Images, precision: Precision) -> epjax.Network:
        """The network."""
        del images
        dense = models.mlp((*self.hidden, num_classes), gain=self.gain, precision=precision)
        below = tuple(Layer(Conv(n, True, self.gain), relu) for n in self.channels)
        return epjax.Network((*below, *dense.layers), precision)


GRADIENT = Gradient(scheme="forward", beta=5e-4, cost="squared_error", traversal="sweep")
"""One-sided, one sweep, errors carried."""
OPTIMISER = replace(plain.OPTIMISER, learning_rate=0.02)

EXPERIMENT = Experiment(
    name="perceptron",
    about=ABOUT,
    network=Network(),
    images=plain.IMAGES,
    recipes={
        "demo": Recipe(GRADIENT, OPTIMISER),
        "cifar10": Recipe(
            GRADIENT,
            replace(OPTIMISER, epochs=4, learning_rate=0.05, momentum=0.9),
            Network(channels=(16, 32, 64), hidden=(), gain=1.5),
            plain.COLOUR,
        ),
        "mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=10, learning_rate=0.3), Network(hidden=(512,))),
        "quick": Recipe(GRADIENT, OPTIMISER).quick(),
    },
)
