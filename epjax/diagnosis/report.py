"""What a diagnosis found, as numbers, text and a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Verdict = Literal[
    "good",
    "beta too large",
    "drowned in rounding",
    "not settled",
    "free phase not settled",
    "negative phase does not exist",
    "jumped to another equilibrium",
    "no gradient",
    "not finite",
    "not done",
]
"""The last three: the exact gradient vanishes, one of them is not finite, the diagnosis itself went wrong."""


WHOLE, WORST = 0.99, 0.95
"""A gradient is good whose cosine is at least the first, and in every layer at least the second."""


@dataclass(frozen=True)
class LayerReport:
    """One layer: its gradient against the exact one (None where it has no parameters), its errors, its kinks.

    `error` is ||eps_k|| / ||h_k||, or ||d_k|| / ||s_k|| of a system that settles.
    """

    cosine: float | None
    norm_ratio: float | None
    error: float
    crossings: float


@dataclass(frozen=True)
class FreeReport:
    """A free phase that was iterated: the worst residual of an example, the most passes, the share that converged.

    `converged` is None where it had no tolerance to converge to.
    """

    residual: float
    iterations: int
    converged: float | None


@dataclass(frozen=True)
class Diagnosis:
    """What was seen. `rounding` is the relative size of one rounding of a state; `advice` is one sentence.

    `reference` is what the exact gradient is called. `softness` is lambda_max(chi C'') of the softest example (see
    `epjax.diagnosis.susceptibility`), `jumps` the share of examples and phases that came to another equilibrium; `free`
    is None where the free phase is a forward pass. Numbers that there are none of, such as the cosine with a gradient
    that vanishes, are NaN.
    """

    verdict: Verdict
    advice: str
    beta: float
    cosine: float
    norm_ratio: float
    layers: tuple[LayerReport, ...]
    residuals: tuple[float, ...]
    rounding: float
    softness: float = float("nan")
    jumps: float = 0.0
    free: FreeReport | None = None
    reference: str = "backpropagation's"

    @property
    def q(self) -> float:
        """beta lambda_max(chi C''): the order of the bias; a negative phase exists where it is below 1."""
        return self.beta * self.softness

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
        if np.isfinite(self.softness):
            exists = "exists" if self.q < 1 else "does not exist"
            lines.append(f"q = {self.q:.2g}: beta times the output's softness, {self.softness:.3g}")
            lines[-1] += f"; a negative phase {exists} (q {'<' if self.q < 1 else '>='} 1)"
        if self.free is not None:
            told = f"residual {self.free.residual:.1e} at worst after up to {self.free.iterations} passes"
            share = self.free.converged
            lines.append(f"free phase: {told}" + ("" if share is None else f", {share:.0%} of the examples converged"))
        if self.jumps:
            lines.append(f"{self.jumps:.0%} of the nudged states jumped to another equilibrium")
        return "\n".join(lines)

    def draw(self, path: str | Path) -> None:
        """One picture, a PNG: gradients, errors, kinks and residuals. Loads matplotlib."""
        from epjax.diagnosis.picture import draw_diagnosis

        draw_diagnosis(self, Path(path), WORST)
