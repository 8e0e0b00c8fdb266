"""What the recipes of small systems share: gray images in [0, 1], one-sided EP, gradient descent without momentum."""

from dataclasses import replace

from epjax.runs.config import Gradient, Optimiser
from epjax.runs.images import Images

IMAGES = Images(image_size=28, crop="none", pixels="unit")
COLOUR = replace(IMAGES, image_size=32, crop="pad")
"""Small images in colour, moved by up to 4 pixels and flipped in training."""
GRADIENT = Gradient(scheme="forward", beta=0.02, cost="squared_error", traversal="relax", free_tolerance=None)
"""Differences carried; each recipe says how many passes its phases take."""
OPTIMISER = Optimiser(
    epochs=20,
    batch_size=32,
    learning_rate=0.1,
    final_learning_rate=0.0,
    momentum=0.0,
    weight_decay=0.0,
    cosine="step",
)


def about(what: str, beside: str = "its exact gradient", mnist: str = "mnist, for MNIST and its like.") -> str:
    """The head of a help text; each line is a paragraph of its own, for it is not wrapped."""
    return f"""Train {what} by equilibrium propagation, or by {beside} to compare.

Recipes: demo, on the images that come with epjax, in a minute or two.

{mnist}

The defaults below are those of --recipe, else of the demo."""
