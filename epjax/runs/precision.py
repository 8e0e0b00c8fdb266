"""The precision of products that `auto` stands for: of the run that goes on, else what the machine multiplies fast."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import jax

from epjax.network.precision import Precision
from epjax.runs import records
from epjax.runs.config import Config

C = TypeVar("C", bound=Config)
TF32_SINCE = 8.0
"""CUDA compute capability of the first NVIDIA GPUs with TF32 units (Ampere). Source: CUDA C++ programming guide."""


def of_device(device: Any) -> Precision:
    """float32 on a CPU, tf32 on an NVIDIA GPU that has it, bfloat16 on a TPU; float32 on everything else."""
    if device.platform == "tpu":
        return "bfloat16"
    with suppress(AttributeError, ValueError):  # a GPU of another maker has another name there, or none
        if device.platform in ("gpu", "cuda") and float(device.compute_capability) >= TF32_SINCE:
            return "tf32"
    return "float32"


def settled(config: C, recipe: C) -> tuple[C, C]:
    """Both with a precision in the place of `auto`: what the run in the work directory began with, else the device's.

    A run goes on as it began, whatever machine it goes on.
    """
    if "auto" not in (config.gradient.precision, recipe.gradient.precision):
        return config, recipe
    began: str | None = None
    with suppress(FileNotFoundError):
        began = records.read(config.run.workdir).config.get("precision")
    usual = began or of_device(jax.devices()[0])
    return _with(config, usual), _with(recipe, usual)


def _with(config: C, usual: str) -> C:
    asked = config.gradient.precision
    return replace(config, gradient=replace(config.gradient, precision=usual if asked == "auto" else asked))  # type: ignore[arg-type]
