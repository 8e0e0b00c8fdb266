"""What the EP gradient of a run is worth, at the parameters of one of its checkpoints and on its own images.

epjax diagnose --workdir runs/vgg10
epjax diagnose --workdir runs/vgg10 --checkpoint newest --beta 0.005 --out diagnosis.png
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from epjax.runs.answer import answer
from epjax.runs.table import method
from epjax.runs.task import diagnosis
from epjax.runs.trained import load


def diagnose(
    workdir: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    checkpoint: str = "best",
    images: int = 32,
    beta: float | None = None,
    seed: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None,
) -> None:
    """Hold the EP gradient of a trained network against backpropagation's, layer by layer, and say what ails it.

    Args:
        workdir: Work directory of a run; its training images must be where they were.
        checkpoint: best (lowest validation top-1 error, or cost of a text), newest, or a step.
        images: How many training images, drawn by --seed, as they are evaluated.
        beta: Another nudging strength than the run's.
        seed: Draws the images, and the signs of --scheme random.
        out: Where a picture goes.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    trained = load(workdir, checkpoint)
    data = trained.config.images.open()  # type: ignore[attr-defined]
    source = data.train
    rng = np.random.default_rng(seed)
    examples = [source[int(i)] for i in rng.permutation(len(source))[:images]]
    made = [trained.transform(example, rng) for example in examples]
    pairs = [one if data.token else (one, example.label) for one, example in zip(made, examples, strict=True)]
    x = trained.normalise(jnp.stack([x for x, _ in pairs]))
    y = jnp.array([label for _, label in pairs], jnp.int32)
    options = replace(trained.config.gradient, algorithm="ep")
    options = options if beta is None else replace(options, beta=beta)
    report = diagnosis(options, trained.network, len(trained.classes))(trained.params, x, y, jax.random.key(seed))
    of = "" if trained.config.gradient.algorithm == "ep" else f", trained by {method(trained.config.gradient)}"
    print(f"step {trained.step}{of}, {len(examples)} training {data.examples}, beta {options.beta:g}\n{report}")
    if out is not None:
        report.draw(out)
        print(f"the picture is in {out}")


def main(argv: Sequence[str] | None = None, prog: str = "epjax diagnose") -> int:
    """The command."""
    return answer(diagnose, argv, prog)
