"""Evaluation: the rank of the right class, errors and cost over all images of a data set."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epjax.cost import Cost
from epjax.shapes import Array, Bool, Float, Int, Shaped

Batch = Mapping[str, jax.Array]


def rank_of_label(output: Float[Array, "*batch classes"], label: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """How many classes come before the right one: output [B, ..., C], label int [B, ...] -> int32 [B, ...].

    Equal outputs are ordered by class, as `top_k` orders them. An output that is not a number comes last,
    so a network that has broken is never counted as right.
    """
    own = jnp.take_along_axis(output, label[..., None], axis=-1)
    numbers = jnp.arange(output.shape[-1]).reshape((1,) * label.ndim + (-1,))
    ahead = (output > own) | ((output == own) & (numbers < label[..., None]))
    broken = ~jnp.all(jnp.isfinite(output), axis=-1)
    return jnp.where(broken, output.shape[-1], jnp.sum(ahead, axis=-1, dtype=jnp.int32))


def _count(wrong: Bool[Array, "batch ..."], mask: Bool[Array, " batch"]) -> Shaped[Array, ""]:
    """How many examples are wrong, of those that count; of one with positions the share that is."""
    if wrong.ndim == 1:
        return jnp.sum(mask & wrong, dtype=jnp.int32)
    share = jnp.mean(wrong, axis=tuple(range(1, wrong.ndim)), dtype=jnp.float32)
    return jnp.sum(jnp.where(mask, share, 0.0))


def eval_step(
    forward: Callable[[Any, jax.Array], Any],
    cost: Cost,
    normalise: Callable[[jax.Array], jax.Array],
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Sums over the images of a batch whose `mask` is true, compiled.

    They are `count`, `cost`, and the wrong ones `top1` and `top5`, of a text the share of its tokens.
    `forward(params, x)` gives all layer states of ONE image, the output last; `cost(output, label)` is of
    one image.
    """

    def step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        x, label, mask = normalise(batch["image"]), batch["label"], batch["mask"]
        output = jax.vmap(lambda one: forward(params, one)[-1])(x).astype(jnp.float32)
        costs = jax.vmap(cost)(output, label)
        rank = rank_of_label(output, label)
        return {
            "count": jnp.sum(mask, dtype=jnp.int32),
            "cost": jnp.sum(jnp.where(mask, costs, 0.0)),
            "top1": _count(rank >= 1, mask),
            "top5": _count(rank >= 5, mask),
        }

    return jax.jit(step)


def evaluate(
    step: Callable[[Any, Batch], dict[str, jax.Array]], params: Any, batches: Iterable[Batch]
) -> dict[str, float]:
    """`val_top1_error` and `val_top5_error` in percent, `val_cost`, and `val_images`, over all the batches.

    `step` is what `eval_step` gives. The sums of a batch are fetched when the next one is on its way, so
    neither side waits for the other and no queue of images grows on the device.
    """
    total = dict.fromkeys(("count", "cost", "top1", "top5"), 0.0)
    for sums in _one_behind(step(params, batch) for batch in batches):
        total = {name: value + float(sums[name]) for name, value in total.items()}
    if not total["count"]:
        raise ValueError("there is no image to evaluate on")
    return {
        "val_top1_error": 100.0 * total["top1"] / total["count"],
        "val_top5_error": 100.0 * total["top5"] / total["count"],
        "val_cost": total["cost"] / total["count"],
        "val_images": int(total["count"]),
    }


def _one_behind(dispatched: Iterable[dict[str, jax.Array]]) -> Iterator[dict[str, np.ndarray]]:
    """Each result on the host, fetched after the one that follows it was dispatched."""
    previous = None
    for current in dispatched:
        if previous is not None:
            yield jax.device_get(previous)
        previous = current
    if previous is not None:
        yield jax.device_get(previous)
