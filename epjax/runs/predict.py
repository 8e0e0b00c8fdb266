"""What a trained network sees in images, and how its prediction errors answer a nudge.

epjax predict --workdir runs/vgg10 cat.jpg dog.jpg
epjax predict --workdir runs/vgg10 cat.jpg --out errors.png
epjax predict --workdir runs/vgg10 cat.jpg --nudge dog --out errors.png
epjax predict --workdir runs/vgg10 --imagine dog --out dogs.png
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from epjax import Network
from epjax.cost import COSTS
from epjax.data.sources.words import readable
from epjax.network import Params, States
from epjax.perturbation import Nudge
from epjax.runs import imagine as imagination
from epjax.runs.answer import answer
from epjax.runs.config import Gradient
from epjax.runs.plots import VAL, literal
from epjax.runs.progress import plain_console
from epjax.runs.task import equilibration, free_method
from epjax.runs.trained import Trained, load
from epjax.style import GREY, INK
from epjax.systems import System, as_system

SURE = 0.5


def table(trained: Trained, names: Sequence[str], outputs: np.ndarray, count: int = 5) -> Table:
    """The `count` classes with the largest outputs [B, classes] of each image, in order.

    After cross-entropy an output is a logit and is shown as a probability; after squared error it is shown itself.
    """
    cross_entropy = trained.config.gradient.cost == "cross_entropy"
    shown = Table(box=None, pad_edge=False)
    for title in ("image", "", "class", "probability" if cross_entropy else "output"):
        shown.add_column(title, justify="right" if title in ("", "probability", "output") else "left")
    values = np.asarray(jax.nn.softmax(outputs)) if cross_entropy else outputs
    for name, value in zip(names, values, strict=True):
        for place, label in enumerate(np.argsort(-value, kind="stable")[:count], start=1):
            number = f"{value[label]:.1%}" if cross_entropy else f"{value[label]:.3f}"
            shown.add_row(name if place == 1 else "", str(place), trained.names[label], number)
    return shown


def find_class(name: str, classes: Sequence[str], words: Mapping[str, str] | None = None, what: str = "nudge") -> int:
    """The label of a class, by its name, by the word for it, or by both as they are shown.

    Raises ValueError with names that are close for one that is none, and for a word of several classes; `what` is
    the option that it was given to.
    """
    labels: dict[str, list[int]] = {}
    for label, known in enumerate(classes):
        for said in {known, readable(known, words or {}), (words or {}).get(known, known)}:
            labels.setdefault(said, []).append(label)
    found = [classes.index(name)] if name in classes else labels.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        several = " and ".join(classes[label] for label in found)
        raise ValueError(f"{what} must name one class, got {name!r}, which {several} are called: give one of these")
    small = {known.casefold(): known for known in reversed(list(labels))}
    close = [small[found] for found in difflib.get_close_matches(name.casefold(), small, n=5, cutoff=0.4)]
    instances = [readable(known, words or {}) for known in classes[:5]]
    hint = f"close ones are {', '.join(close)}" if close else f"for instance {', '.join(instances)}"
    raise ValueError(f"{what} must be one of the run's {len(classes)} classes, got {name!r}; {hint}")


@partial(jax.jit, static_argnums=(0, 1))
def nudged_errors(network: Network | System, options: Gradient, params: Params, x: Array, label: Array) -> States:
    """(eps_1, ..., eps_L) of one input after a nudge of strength `options.beta` toward a class.

    Of a system that is no predictive coding network they are the displacements of its blocks.
    """
    system = as_system(network)
    nudge = Nudge(COSTS[options.cost], label, jnp.asarray(options.beta, x.dtype))
    at_rest = system.free(params, x, free_method(options, network))
    found = system.nudged(params, at_rest, nudge, equilibration(options), options.errors)
    if found.errors is not None:
        return found.errors
    assert found.h is not None
    return tuple(h - s for h, s in zip(found.h, at_rest.states, strict=True))


def default_class(outputs: np.ndarray, cross_entropy: bool) -> int:
    """The class that a nudge goes to where none is asked for: the runner-up where the network is sure, else the first.

    It is sure where the first has half of the probability, or leads by half of the target's height of 1: a nudge to
    where the output already is would move nothing. `outputs` [classes] are logits after cross-entropy.
    """
    values = np.asarray(jax.nn.softmax(outputs)) if cross_entropy else outputs
    first, *others = np.argsort(-values, kind="stable")
    sure = values[first] - (0 if cross_entropy or not others else values[others[0]]) >= SURE
    return int(others[0] if others and sure else first)


def draw(pixels: np.ndarray, errors: Sequence[np.ndarray], title: str, path: Path) -> None:
    """The image, || eps_k || of every layer, and | eps_k | over the image, its root sum of squares over channels."""
    maps = [(k, eps) for k, eps in enumerate(errors, start=1) if eps.ndim == 3 and eps.shape[0] > 1]
    columns, layers = 5, range(1, len(errors) + 1)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(10, 2.8 + 2.1 * rows), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[2.8, max(2.1 * rows, 0.1)]))
    image, norms = above.subplots(1, 2, width_ratios=[1, columns - 1])
    image.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
    image.set_axis_off()
    norms.semilogy(layers, [np.linalg.norm(eps) for eps in errors], color=VAL, marker="o", linewidth=1.8)
    norms.set_title("norm of the prediction errors $\\|\\epsilon_k\\|$ by layer $k$", fontsize=9, color=INK, loc="left")
    norms.set_xticks(layers)
    norms.grid(True, color="#e6ebf0", linewidth=0.8)
    norms.tick_params(which="both", colors=INK, labelsize=8)
    norms.spines[["top", "right"]].set_visible(False)
    for place, (k, eps) in enumerate(maps, start=1):
        axes = below.add_subplot(rows, columns, place)
        axes.imshow(np.sqrt(np.sum(eps**2, axis=-1)), cmap="magma", vmin=0)
        axes.set_title(f"layer {k}: {' x '.join(map(str, eps.shape))}", fontsize=8, color=GREY)
        axes.set_axis_off()
    figure.suptitle(literal(title), x=0.01, ha="left", color=INK, fontsize=10)
    figure.savefig(path)


def predict(
    images: tyro.conf.Positional[tuple[Path, ...]],
    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    checkpoint: str = "best",
    nudge: Annotated[str | None, tyro.conf.arg(metavar="CLASS")] = None,
    imagine: Annotated[str | None, tyro.conf.arg(metavar="CLASS")] = None,
    imagine_layer: Annotated[int | None, tyro.conf.arg(metavar="K")] = None,
    seed: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None,
) -> None:
    """Name the five likeliest classes of images; with --out draw how the prediction errors of one answer a nudge; with
    --imagine draw eight inputs that relaxed toward a class.

    Args:
        images: Image files.
        workdir: Work directory of a run; its training data are not needed.
        checkpoint: best (lowest validation top-1 error), newest, or a step.
        nudge: Draw the errors that a nudge toward this class leaves, with the run's beta and equilibration. Default:
            the runner-up where the network is sure, else the likeliest.
        imagine: Draw inputs that relax under the energy, from noise, while the output is nudged toward this class.
        imagine_layer: Let the states of this hidden layer, from 1 on, relax toward the class in the input's place, and
            the input toward these states: what the layers above take for the class.
        seed: Draws that noise.
        out: Where the picture goes.
    """
    if imagine is not None:
        return imagined(images, workdir, checkpoint, nudge, imagine, imagine_layer, seed, out)
    if imagine_layer is not None:
        raise ValueError(f"--imagine-layer {imagine_layer} says what relaxes: give --imagine CLASS as well")
    if not images:
        raise ValueError("images must name at least one image file, got none")
    if nudge is not None and out is None:
        raise ValueError(f"--nudge {nudge} draws a picture: give --out PNG as well")
    if out is not None and len(images) > 1:
        raise ValueError(f"--out {out} draws the answer of one image, got {len(images)} images")
    trained = load(workdir, checkpoint)
    label = None if nudge is None else find_class(nudge, trained.classes, trained.words)
    pixels = np.stack([trained.pixels(path) for path in images])
    outputs = np.concatenate([jax.device_get(trained.outputs(one[None])) for one in pixels])
    plain_console().print(table(trained, [path.name for path in images], outputs), soft_wrap=True)
    if out is None:
        return
    options = trained.config.gradient
    if label is None:
        label = default_class(outputs[0], options.cost == "cross_entropy")
    x = trained.normalise(jax.device_put(pixels[0]))
    errors = nudged_errors(trained.network, options, trained.params, x, jnp.asarray(label))
    seen, toward = trained.names[int(outputs[0].argmax())], trained.names[label]
    title = f"{images[0].name}, seen as {seen}, nudged toward {toward} (beta = {options.beta:g}, step {trained.step})"
    draw(pixels[0], jax.device_get(errors), title, out)
    print(f"prediction errors after the nudge in {out}")


def imagined(
    images: Sequence[Path],
    workdir: Path,
    checkpoint: str,
    nudge: str | None,
    name: str,
    layer: int | None,
    seed: int,
    out: Path | None,
) -> None:
    """`predict` with --imagine."""
    if out is None or images or nudge is not None:
        raise ValueError("--imagine CLASS and --out PNG go together, without images and without --nudge")
    trained = load(workdir, checkpoint)
    label = find_class(name, trained.classes, trained.words, "imagine")
    x, outputs = imagination.imagine(trained, label, seed=seed, layer=layer)
    cross_entropy = trained.config.gradient.cost == "cross_entropy"
    values = np.asarray(jax.nn.softmax(outputs))[:, label] if cross_entropy else outputs[:, label]
    told = [f"{value:.0%}" if cross_entropy else f"output {value:.2f}" for value in values]
    seen = int(np.sum(outputs.argmax(axis=1) == label))
    where = "" if layer is None else f" by layer {layer}"
    imagination.draw(x, told, f"{trained.names[label]}, imagined{where} (step {trained.step})", out)
    print(f"{len(x)} inputs, of which {seen} are seen as {trained.names[label]}, in {out}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax predict") -> int:
    """The command."""
    return answer(predict, argv, prog)
