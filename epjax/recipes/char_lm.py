"""Train an ordinary causal transformer on the characters of a text by equilibrium propagation.

The network is `epjax.models.gpt`: attention and MLP blocks are layers of a predictive coding network. Its cost is the
cross-entropy of the next token; divided by log 2 it is in bits per character.

    python -m experiments.char_lm --workdir runs/lm
    python -m experiments.char_lm --workdir runs/shakespeare --data text:tinyshakespeare.txt.gz
    python -m experiments.sample --workdir runs/lm --prompt "MENENIUS:"
"""

from dataclasses import dataclass

import epjax
from epjax import models
from epjax.network.precision import Precision
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.text import Text

# Each line is a paragraph of its own: the help text is not wrapped.
ABOUT = """Train a causal transformer on a text by equilibrium propagation, or by backpropagation to compare.

Recipes: demo, on the text that comes with epjax, in three minutes.

text, for texts of a megabyte.

The defaults below are those of --recipe, else for the data at hand."""


@dataclass(frozen=True)
class Network:
    """A causal transformer whose blocks are layers."""

    features: int = 64
    """Numbers of each position's state."""
    depth: int = 2
    """Blocks: attention and an MLP each."""
    heads: int = 4
    """Heads of the attention."""
    split: bool = True
    """Attention and MLP are a layer each, or both one."""

    title = "GPT"

    def make(self, num_classes: int, images: Text, precision: Precision) -> epjax.Network:
        """The network; `num_classes` is the vocabulary."""
        return models.gpt(
            num_classes,
            images.context,
            features=self.features,
            depth=self.depth,
            heads=self.heads,
            split=self.split,
            precision=precision,
        )


GRADIENT = Gradient(scheme="forward", beta=5e-4, traversal="sweep", update="pgd")
"""One-sided, one sweep, errors carried: the runs of `python -m experiments.reproduce text`."""


def optimiser(epochs: int, warmup_epochs: int = 0) -> Optimiser:
    """AdamW with a cosine to a tenth."""
    return Optimiser(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        batch_size=16,
        optimiser="adamw",
        learning_rate=3e-3,
        final_learning_rate=3e-4,
        weight_decay=0.01,
        cosine="step",
    )


EXPERIMENT = Experiment(
    name="char_lm",
    about=ABOUT,
    network=Network(),
    images=Text(),
    recipes={
        "text": Recipe(GRADIENT, optimiser(2)),
        "demo": Recipe(GRADIENT, optimiser(15, warmup_epochs=1)),
        "quick": Recipe(GRADIENT, optimiser(2)).quick(),
    },
)
