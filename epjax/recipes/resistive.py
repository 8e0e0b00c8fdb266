"""Train a deep resistive network by equilibrium propagation: adjustable resistors between nodes, diodes at the nodes.

Kendall et al., arXiv:2006.01981; Scellier, arXiv:2402.11674. Published test errors on MNIST, centered EP, one, two and
three hidden layers of 1024 nodes: 1.57, 1.48 and 1.66% (50 epochs, batch 4).

    python -m experiments.resistive --workdir runs/resistive
    python -m experiments.resistive --workdir runs/resistive_mnist --recipe mnist --data idx:/data/mnist
"""

from dataclasses import dataclass, replace

from epjax.network.precision import Precision
from epjax.runs import plain
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images
from epjax.systems import Resistive

ABOUT = plain.about("a deep resistive network")


@dataclass(frozen=True)
class Network:
    """A circuit of resistors and diodes; half the hidden nodes are never negative, the others never positive."""

    hidden: tuple[int, ...] = (256,)
    """Nodes of the hidden layers."""
    input_gain: float = 250.0
    """A pixel stands as two sources, of plus and minus so many volts."""
    amplifier: float = 1.0
    """Voltage gain between layers; 1: none."""
    gain: float = 1.0
    """Initial conductances are max(U(-c, c), 0), c = gain * sqrt(1 / fan_in)."""

    title = "Resistive"

    def make(self, num_classes: int, images: Images, precision: Precision) -> Resistive:
        """The network."""
        del images
        options = {"input_gain": self.input_gain, "amplifier": self.amplifier, "gain": self.gain}
        return Resistive((*self.hidden, num_classes), precision=precision, **options)


GRADIENT = replace(plain.GRADIENT, iterations=4, free_iterations=4)
OPTIMISER = replace(plain.OPTIMISER, epochs=8, batch_size=8, learning_rate=0.006)

EXPERIMENT = Experiment(
    name="resistive",
    about=ABOUT,
    network=Network(),
    images=plain.IMAGES,
    recipes={
        "demo": Recipe(GRADIENT, OPTIMISER),
        "mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=5), Network(hidden=(512,))),
        "quick": Recipe(GRADIENT, OPTIMISER).quick(),
    },
)
