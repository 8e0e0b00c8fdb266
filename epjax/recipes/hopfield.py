"""Train a deep Hopfield network by equilibrium propagation.

Scellier et al., arXiv:2312.15103; Laborieux et al., doi:10.3389/fnins.2021.633674. Published test errors on MNIST,
centered EP, one, two and three hidden layers of 1024 units: 1.79, 1.65 and 1.65% (100 epochs, up to 100 passes free
and 20 nudged).

    python -m experiments.hopfield --workdir runs/hopfield
    python -m experiments.hopfield --workdir runs/hopfield_mnist --recipe mnist --data idx:/data/mnist
"""

from dataclasses import dataclass, replace

from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images
from epjax.systems import Hopfield

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train a deep Hopfield network by equilibrium propagation, or by its exact gradient to compare.

Recipes: demo, on the images that come with epjax, in a minute.

mnist and fashion_mnist: brighter images want a smaller learning rate.

The defaults below are those of --recipe, else of the demo."""


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


GRADIENT = Gradient(
    scheme="forward",
    beta=0.02,
    cost="squared_error",
    traversal="relax",
    iterations=5,
    free_iterations=6,
    free_tolerance=None,
)
"""One-sided, differences carried, six passes up and five down: as good here as 20 and 15 at three times the work."""

OPTIMISER = Optimiser(
    epochs=20,
    batch_size=32,
    learning_rate=0.1,
    final_learning_rate=0.0,
    layer_rates=(1.0, 0.25),
    momentum=0.0,
    weight_decay=0.0,
    cosine="step",
)
IMAGES = Images(image_size=28, crop="none", pixels="unit")

EXPERIMENT = Experiment(
    name="hopfield",
    about=ABOUT,
    network=Network(),
    images=IMAGES,
    recipes={
        "demo": Recipe(GRADIENT, OPTIMISER),
        "fashion_mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=10), Network(hidden=(512,))),
        "mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=10, learning_rate=0.4), Network(hidden=(512,))),
    },
)
