"""Train a layered network of coupled phase oscillators by equilibrium propagation.

Rageau and Grollier, arXiv:2504.11884; Wang, Wanjura and Marquardt, arXiv:2402.08579. Published test errors on MNIST:
2.23% for phase oscillators (arXiv:2504.11884), 2.8% for an oscillator Ising machine (arXiv:2505.02103).

    python -m experiments.oscillators --workdir runs/oscillators
    python -m experiments.oscillators --workdir runs/oscillators_mnist --recipe mnist --data idx:/data/mnist
"""

from dataclasses import dataclass, replace

from epjax.network.precision import Precision
from epjax.runs import plain
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images
from epjax.systems import Oscillators

ABOUT = plain.about("coupled phase oscillators", beside="their exact gradient")


@dataclass(frozen=True)
class Network:
    """Layers of oscillators; a pixel x stands as the phase pi (x - 1/2), an output is the sine of a phase."""

    hidden: tuple[int, ...] = (256,)
    """Oscillators of the hidden layers."""
    gain: float = 0.5
    """Initial couplings are uniform in +- gain * sqrt(3 / fan_in)."""
    bias: float = 1.0
    """The field along phase 0 at the start: without one, phases are soft and never settle."""

    title = "Oscillators"

    def make(self, num_classes: int, images: Images, precision: Precision) -> Oscillators:
        """The network."""
        del images
        return Oscillators((*self.hidden, num_classes), gain=self.gain, bias=self.bias, precision=precision)


GRADIENT = replace(plain.GRADIENT, iterations=8, free_iterations=8)
OPTIMISER = replace(plain.OPTIMISER, epochs=10, learning_rate=0.3, layer_rates=(1.0, 1 / 3))

EXPERIMENT = Experiment(
    name="oscillators",
    about=ABOUT,
    network=Network(),
    images=plain.IMAGES,
    recipes={
        "demo": Recipe(GRADIENT, OPTIMISER),
        "mnist": Recipe(GRADIENT, replace(OPTIMISER, epochs=5), Network(hidden=(512,))),
        "quick": Recipe(GRADIENT, OPTIMISER).quick(),
    },
)
