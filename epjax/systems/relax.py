"""Relaxation: the blocks of a system respond to their fields, one after the other, until they stop moving.

    pass         every block k once, in an order:  s_k <- s_k + w (response_k(field_k(s)) - s_k), then into its range
    residual     worst block of ||response_k - s_k|| / ||s_k||, all fields at s

The response is the exact minimum over its block, so that the energy never rises for 0 < w < 2. All orders settle at one
rate rho; they differ in how long a wave takes to pass: from the input up, or from the output down. Over-relaxed by the
best w = 2 / (1 + sqrt(1 - rho)) a slow system settles in a third to a fifth of the passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array, lax

from epjax.systems.solution import check_options, relative

Order = Literal["auto", "up", "down", "even_odd", "sync"]
Blocks = tuple[Array, ...]

PROBE = 4
"""Passes between two looks of `over="auto"` at the rate."""
MOST = 1.6
"""The largest w of `over="auto"`: far from rest the rate says little, and a w near 2 forgets slowly."""
SLOW = 0.3
"""The rate from which on it over-relaxes: below it, a larger w costs what it gains."""


@dataclass(frozen=True)
class Relax:
    """At most `iterations` passes; an example stops where a pass moves no block by more than tolerance * ||s_k||.

    `order` is the order of the blocks: from the input up, from the output down, even then odd, all at once; auto is up
    for a free phase and down for a nudged one. `over` is w, or "auto": the best w for the rate rho that was measured.
    At w the passes go down by a factor lambda with (lambda + w - 1)^2 = lambda w^2 rho (Young's relation for chains),
    which gives rho from lambda every 4 passes. The residual is measured of what is returned, in one pass more.
    With `trace` the changes of every pass are kept, NaN after an early stop. The first `unroll` passes are written out
    before the loop: they are run whatever the tolerance, compile longer, and XLA's cost analysis sees each of them.

    Raises ValueError for iterations < 1, a tolerance that is not positive, an unknown order, w outside (0, 2) and a
    negative unroll.
    """

    iterations: int = 100
    tolerance: float | None = 1e-5
    order: Order = "auto"
    over: float | Literal["auto"] = 1.0
    trace: bool = False
    unroll: int = 0

    def __post_init__(self) -> None:
        check_options(self.iterations, self.tolerance, self.unroll, "iterations")
        if self.order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {self.order!r}")
        if self.over != "auto" and not (isinstance(self.over, int | float) and 0 < self.over < 2):
            raise ValueError(f"over must be 'auto' or lie between 0 and 2, got {self.over!r}")

    def groups(self, L: int, nudged: bool) -> list[list[int]]:
        """The blocks of a pass, those of a group at once."""
        order = ("down" if nudged else "up") if self.order == "auto" else self.order
        up = list(range(1, L + 1))
        if order == "sync":
            return [up]
        if order == "even_odd":
            return [g for g in ([k for k in up if k % 2 == p] for p in (0, 1)) if g]
        return [[k] for k in (up if order == "up" else reversed(up))]


@dataclass(frozen=True)
class Relaxed:
    """Blocks as they came to rest: passes done, the residual, the share by which the last pass moved them."""

    blocks: Blocks
    iterations: Array
    residual: Array
    converged: Array | None
    changes: Array | None = None


def relax(
    method: Relax,
    groups: Sequence[Sequence[int]],
    respond: Callable[[int, Blocks], Array],
    towards: Callable[[int, Array, Array, Array], Array],
    start: Blocks,
) -> Relaxed:
    """Passes of `groups` over blocks (1..L) of ONE example.

    `respond(k, blocks)` is what block k would be; `towards(k, old, new, w)` goes the share w of the way, within the
    block's range.
    """
    real = start[0].real.dtype
    fixed = None if method.over == "auto" else jnp.asarray(method.over, real)
    Carry = tuple[Array, Blocks, Array, Array, Array, Array | None]

    def one_pass(blocks: Blocks, w: Array) -> tuple[Blocks, Array]:
        moved = jnp.zeros((), real)
        for group in groups:
            new = {k: towards(k, blocks[k - 1], respond(k, blocks), w) for k in group}
            for k, block in new.items():
                moved = jnp.maximum(moved, relative(block - blocks[k - 1], block) / w)
            blocks = tuple(new.get(k, block) for k, block in enumerate(blocks, start=1))
        return blocks, moved

    def best(w: Array, drop: Array) -> Array:
        """The best w, where PROBE passes at w have brought the changes down by `drop`."""
        rate = jnp.clip(drop, 1e-6, 0.999**PROBE) ** (1 / PROBE)
        rho = jnp.clip((rate + w - 1) ** 2 / (rate * w * w), 0.0, 0.9995)
        return jnp.where(rho < SLOW, 1.0, jnp.minimum(2.0 / (1.0 + jnp.sqrt(1.0 - rho)), MOST)).astype(real)

    def body(carry: Carry) -> Carry:
        i, blocks, _, w, mark, changes = carry
        blocks, moved = one_pass(blocks, w if fixed is None else fixed)
        if fixed is None:
            due = (i + 1) % PROBE == 0
            w = jnp.where(due & (i + 1 > PROBE), best(w, moved / jnp.maximum(mark, jnp.finfo(real).tiny)), w)
            mark = jnp.where(due, moved, mark)
        changes = None if changes is None else changes.at[i].set(moved)
        return i + 1, blocks, moved, w, mark, changes

    def more(carry: Carry) -> Array:
        i, _, moved, *_ = carry
        return (
            i < method.iterations if method.tolerance is None else (i < method.iterations) & (moved > method.tolerance)
        )

    far = jnp.full((), jnp.inf, real)
    kept = jnp.full(method.iterations, jnp.nan, real) if method.trace else None
    carry: Carry = (jnp.int32(0), start, far, jnp.ones((), real), far, kept)
    for _ in range(min(method.unroll, method.iterations)):
        carry = body(carry)
    if method.unroll < method.iterations:
        carry = lax.while_loop(more, body, carry)
    i, blocks, *_, changes = carry
    rest = [relative(respond(k, blocks) - block, block) for k, block in enumerate(blocks, start=1)]
    residual = jnp.max(jnp.stack(rest))
    converged = None if method.tolerance is None else residual <= method.tolerance
    return Relaxed(blocks, i, residual, converged, changes)
