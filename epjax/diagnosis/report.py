"""What a diagnosis found, as numbers, text and a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Verdict = Literal[
    "good", "beta too large", "drowned in rounding", "not settled", "no gradient", "not finite", "not done"
]
"""The last three: backpropagation's gradient vanishes, one of them is not finite, the diagnosis itself went wrong."""


WHOLE, WORST = 0.99, 0.95
"""A gradient is good whose cosine is at least the first, and in every layer at least the second."""


@dataclass(frozen=True)
class LayerReport:
    """One layer: its gradient against backpropagation's (None where it has no parameters), its errors, its kinks."""

    cosine: float | None
    norm_ratio: float | None
    error: float
    crossings: float


@dataclass(frozen=True)
class Diagnosis:
    """What was seen. `rounding` is the relative size of one rounding of a state; `advice` is one sentence.

    Numbers that there are none of, such as the cosine with a gradient that vanishes, are NaN.
    """

    verdict: Verdict
    advice: str
    beta: float
    cosine: float
    norm_ratio: float
    layers: tuple[LayerReport, ...]
    residuals: tuple[float, ...]
    rounding: float

    @property
    def worst(self) -> int:
        """The layer of the least cosine, from 1."""
        cosines = [np.inf if layer.cosine is None else layer.cosine for layer in self.layers]
        return int(np.argmin(cosines)) + 1

    @property
    def worst_cosine(self) -> float:
        """The least cosine of a layer."""
        cosine = self.layers[self.worst - 1].cosine
        return np.nan if cosine is None else cosine

    def __str__(self) -> str:
        lines = [f"{self.verdict}: {self.advice}", "layer  cosine    norm ratio  error / state  switches crossed"]
        for k, layer in enumerate(self.layers, start=1):
            cosine, ratio = ("-" if v is None else f"{v:.6f}" for v in (layer.cosine, layer.norm_ratio))
            lines.append(f"{k:>5}  {cosine:<9} {ratio:<11} {layer.error:<14.1e} {layer.crossings:.2%}")
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """One picture, a PNG: gradients, errors, kinks and residuals. Loads matplotlib."""
        from epjax.diagnosis.picture import draw_diagnosis

        draw_diagnosis(self, Path(path), WORST)
