"""What a trained network takes for a class: the output is nudged toward it, and the INPUT relaxes under the energy.

    F(x) = C(h_L(x), y) + smoothness/2 |D x|^2 + decay/2 |x|^2      D: differences of neighbouring pixels and channels

dC/dx is EP's own estimate for the input, `argnums=1` of `epjax.value_and_grad`: what the prediction error of the first
layer asks of the input, as that of each layer asks of the one below. Without the prior, which is the standard one, an
input relaxes into noise that the network takes for the class.

    z = x - r dC/dx,    x <- clip((1 + r (smoothness D^T D + decay))^-1 z, 0, 1)

The prior is relaxed exactly, by a cosine transform; r is at most `RATE` and such that z moves no pixel by more than
`STEP`.

Or a hidden layer k relaxes in the input's place, and the input follows it (see `epjax.runs.imagine_layer`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.fft import dctn, idctn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from epjax.runs.imagine_layer import InputGradient, each, halves, hidden, toward
from epjax.runs.plots import literal
from epjax.runs.task import gradient
from epjax.runs.trained import Trained
from epjax.style import GREY, INK

RATE, STEP = 100.0, 0.05
"""Of pixels in [0, 1]."""
SPREAD = 0.1
"""Standard deviation of the noise around mid-grey / 2 that an input starts from."""


def stiffness(shape: tuple[int, ...]) -> np.ndarray:
    """Eigenvalues of D^T D with free ends, in the order of the cosine transform: sum_i 4 sin^2(pi k_i / 2 n_i)."""
    axes = [4 * np.sin(np.pi * np.arange(n) / (2 * n)) ** 2 for n in shape]
    return sum(np.meshgrid(*axes, indexing="ij"), np.zeros(shape)).astype(np.float32)


def relax(of: InputGradient, x: Array, steps: int, smoothness: float, decay: float) -> tuple[Array, Array]:
    """x [B, H, W, C] after so many steps, and the outputs there [B, classes]."""
    axes = (1, 2, 3)
    prior = jnp.asarray(smoothness * stiffness(x.shape[1:])[None] + decay, x.dtype)

    def step(x: Array, _: Any) -> tuple[Array, None]:
        slope = of(x)[1]
        largest = jnp.max(jnp.abs(slope), axis=axes, keepdims=True)
        rate = jnp.minimum(RATE, STEP / jnp.maximum(largest, jnp.finfo(x.dtype).tiny))
        moved = dctn(x - rate * slope, axes=axes, norm="ortho") / (1 + rate * prior)
        return jnp.clip(idctn(moved, axes=axes, norm="ortho"), 0, 1), None

    x, _ = jax.lax.scan(step, x, None, length=steps)
    return x, of(x)[0]


def imagine(
    trained: Trained,
    label: int,
    *,
    count: int = 8,
    steps: int = 200,
    seed: int = 0,
    smoothness: float = 1e-2,
    decay: float = 1e-4,
    layer: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`count` inputs [B, H, W, C] in [0, 1] that relaxed toward a class from different noise, and the outputs there.

    With `layer` k it is h_k that relaxes toward the class, and the input toward that h_k. EP's options are those of the
    run, which may have been trained by anything. Raises ValueError for a count or steps below 1, for a prior that is
    negative, for a language model, whose input cannot move a little, and for a layer where the network has no cut.
    """
    for name, number in (("count", count), ("steps", steps)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, amount in (("smoothness", smoothness), ("decay", decay), ("seed", seed)):
        if not 0 <= amount < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, got {amount}")
    if trained.token:
        raise ValueError("imagine needs a network that takes images, and the run's takes a text")
    options = replace(trained.config.gradient, algorithm="ep", label_smoothing=0.0)
    noise, signs = jax.random.split(jax.random.key(seed))
    y, std = jnp.full(count, label, jnp.int32), jnp.asarray(trained.normalise.std, jnp.float32).reshape(1, 1, 1, -1)

    def to_input(of: InputGradient) -> InputGradient:
        """The gradient of pixels in [0, 1] from that of the network's own input."""

        def of_pixels(x: Array) -> tuple[Array, Array]:
            output, slope = of(trained.normalise(255 * x))
            return output, slope / std

        return of_pixels

    def run(x: Array) -> tuple[Array, Array]:
        of = each(gradient(options, trained.network, len(trained.classes), argnums=1), trained.params, y, signs)
        if layer is None:
            return relax(to_input(of), x, steps, smoothness, decay)
        cut = halves(trained.network, trained.params, layer)
        h = hidden(cut, trained.normalise(255 * x), y, signs, options, steps)
        x, _ = relax(to_input(toward(cut, h, trained.normalise(255 * x), signs, options)), x, steps, smoothness, decay)
        return x, of(trained.normalise(255 * x))[0]

    start = 0.25 + SPREAD * jax.random.normal(noise, (count, *trained.transform.shape))
    x, outputs = jax.device_get(jax.jit(run)(jnp.clip(start, 0, 1)))
    return x, outputs


def draw(x: np.ndarray, told: list[str], title: str, path: Path) -> None:
    """The inputs in a row, what is told of each above it."""
    figure = Figure(figsize=(1.5 * len(x), 2.1), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, one, words in zip(figure.subplots(1, len(x), squeeze=False)[0], x, told, strict=True):
        axes.imshow(one.squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(words, fontsize=8, color=GREY)
        axes.set_axis_off()
    figure.suptitle(literal(title), x=0.01, ha="left", color=INK, fontsize=10)
    figure.savefig(path)
