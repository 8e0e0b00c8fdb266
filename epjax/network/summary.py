"""A table of layers: what each is, gives, holds and costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Row:
    """One layer; `flops` are XLA's for one example, before it optimises."""

    name: str
    activation: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: int
    flops: float


def count(tree: Any) -> int:
    """Numbers in a pytree of arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def flops(f: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of f at arguments of these shapes, by XLA's cost analysis; NaN where it has none."""
    cost = jax.jit(f).lower(*arguments).cost_analysis()
    return float(cost.get("flops", 0.0)) if isinstance(cost, dict) else math.nan


def table(title: str, input_shape: Sequence[int], rows: Sequence[Row]) -> str:
    """The rows as text, with their sums."""
    head = ("layer", "drive", "activation", "from", "output", "parameters", "FLOPs")
    body = [
        (str(k), r.name, r.activation, ", ".join(map(str, r.sources)), *_numbers(r.shape, r.parameters, r.flops))
        for k, r in enumerate(rows, start=1)
    ]
    total = _numbers((), sum(row.parameters for row in rows), sum(row.flops for row in rows))
    lines = [
        head,
        ("0", "input", "", "", str(list(input_shape)), "", ""),
        *body,
        ("", "in all", "", "", "", *total[1:]),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        aligned = [str.rjust if i in (0, 5, 6) else str.ljust for i in range(len(head))]
        return "  ".join(f(c, w) for f, c, w in zip(aligned, cells, widths, strict=True)).rstrip()

    return "\n".join([title, *map(row, lines)])


def _numbers(shape: Sequence[int], parameters: int, flops: float) -> tuple[str, str, str]:
    return str(list(shape)), f"{parameters:,}", _short(flops)


def _short(n: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return "?" if math.isnan(n) else f"{n:.0f}"
