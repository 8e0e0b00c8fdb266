"""Train a deep Hopfield network by equilibrium propagation.

Scellier et al., arXiv:2312.15103; Laborieux et al., doi:10.3389/fnins.2021.633674. Published test errors on MNIST,
centered EP, one, two and three hidden layers of 1024 units: 1.79, 1.65 and 1.65% (100 epochs, up to 100 passes free
and 20 nudged).

    python -m experiments.hopfield --workdir runs/hopfield
    python -m experiments.hopfield --workdir runs/hopfield_mnist --recipe mnist --data idx:/data/mnist
"""

from dataclasses import dataclass, replace

from epjax.network.precision import Precision
from epjax.runs import plain
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images
from epjax.systems import Hopfield

ABOUT = plain.about(
    "a deep Hopfield network",
    mnist="mnist and fashion_mnist: brighter images want a smaller learning rate; cifar10: convolutions.",
)


@dataclass(frozen=True)
class Network:
    """A Hopfield network of convolutions, if any, and dense layers, hidden units in [0, 1]."""

    channels: tuple[int, ...] = ()
    """Channels of 3x3 convolutions, each with 2x2 max-pooling, below the dense layers."""
    hidden: tuple[int, ...] = (256,)
    """Units of the hidden dense layers."""
    gain: float = 0.4
    """Initial weights are uniform in +- gain * sqrt(3 / fan_in); from three layers on keep it at 0.5 or below."""

    title = "Hopfield"

    def make(self, num_classes: int, images: Images, precision: Precision) -> Hopfield:
        """The network."""
        del images
        return Hopfield.convolutional(self.channels, (*self.hidden, num_classes), gain=self.gain, precision=precision)


GRADIENT = replace(plain.GRADIENT, iterations=5, free_iterations=6)
OPTIMISER = replace(plain.OPTIMISER, layer_rates=(1.0, 0.25))

EXPERIMENT = Experiment(
    name="hopfield",
    about=ABOUT,
    network=Network(),
    images=plain.IMAGES,
    recipes={
        "demo": Recipe(GRADIENT, OPTIMISER),
        "cifar10": Recipe(
            replace(GRADIENT, iterations=8, free_iterations=10),
            replace(OPTIMISER, epochs=4, learning_rate=0.03, momentum=0.9, layer_rates=()),
            Network(channels=(16, 32, 64), hidden=(), gain=0.5),
            plain.COLOUR,
        ),
        "fashion_mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=10), Network(hidden=(512,))),
        "mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=10, learning_rate=0.4), Network(hidden=(512,))),
        "quick": Recipe(GRADIENT, OPTIMISER).quick(),
    },
)
