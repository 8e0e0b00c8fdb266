"""Training: one step for equilibrium propagation and backpropagation alike, the optimiser, evaluation.

A step takes any gradient function of the form `(cost, aux), grads = f(params, x, y, key)` where
`aux.output` is the output [B, C]: what computes the gradient is the caller's choice, everything after it is
the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from epjax.cost import Cost
from epjax.estimator import ValueAndGrad
from epjax.network import Params

Batch = Mapping[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a run must remember: float32 parameters, optimiser state, number of steps done (int32 [])."""

    params: Params
    opt_state: Any
    step: jax.Array


@dataclass(frozen=True)
class Normalise:
    """x = (image / 255 - mean) / std for uint8 images [..., H, W, C]; on the device, so that bytes travel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: jax.Array) -> jax.Array:
        """Float32 [..., H, W, C]."""
        scale = 1.0 / (255.0 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        shape = (1,) * (image.ndim - 1) + (-1,)
        return image.astype(jnp.float32) * scale.reshape(shape) - shift.reshape(shape)


def cosine(initial: float, final: float, periods: int, steps_per_period: int = 1) -> optax.Schedule:
    """lr(t) = final + (initial - final) (1 + cos(pi t / periods)) / 2, t = whole periods done.

    With `periods` the epochs and `steps_per_period` the steps in one, the rate changes once an epoch, as
    the paper's does; with `periods` the total of steps it changes at every step.
    """
    for name, value in (("periods", periods), ("steps_per_period", steps_per_period)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}")

    def schedule(step: Any) -> Any:
        done = jnp.minimum(step // steps_per_period, periods).astype(jnp.float32)
        return final + 0.5 * (initial - final) * (1.0 + jnp.cos(jnp.pi * done / periods))

    return schedule


def warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """lr(t) = schedule(0) (t + 1) / steps for t < steps, then schedule(t - steps): warm-up (arXiv:1706.02677)."""

    def warm(step: Any) -> Any:
        rise = jnp.minimum(1.0, (step + 1) / jnp.maximum(steps, 1))
        return schedule(jnp.maximum(step - steps, 0)) * rise

    return warm if steps else schedule


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> optax.GradientTransformation:
    """SGD as PyTorch defines it: d = g + wd p;  m <- mu m + d;  p <- p - lr (d + mu m).

    Without Nesterov p <- p - lr m. The decay joins the gradient of every parameter, biases too, BEFORE the
    momentum.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def initial_state(params: Params, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))


def rank_of_label(output: jax.Array, label: jax.Array) -> jax.Array:
    """How many classes come before the right one: output [B, C], label int [B] -> int32 [B].

    Equal outputs are ordered by class, as `top_k` orders them. An output that is not a number comes last,
    so a network that has broken is never counted as right.
    """
    own = jnp.take_along_axis(output, label[:, None], axis=1)
    earlier = jnp.arange(output.shape[1])[None, :] < label[:, None]
    ahead = (output > own) | ((output == own) & earlier)
    broken = ~jnp.all(jnp.isfinite(output), axis=1)
    return jnp.where(broken, output.shape[1], jnp.sum(ahead, axis=1, dtype=jnp.int32))


def train_step(
    value_and_grad: ValueAndGrad,
    optimiser: optax.GradientTransformation,
    normalise: Callable[[jax.Array], jax.Array],
    seed: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """One update from `{"image": uint8 [B, H, W, C], "label": int32 [B]}`, compiled, its state donated.

    Randomness comes from `fold_in(key(seed), step)` and from nothing else; each example has its own key, so that it
    draws the same wherever it lies. The metrics are `cost` (mean), `top1_error` and `top5_error` (shares in [0, 1] of
    this batch, at the parameters before the update), `residual` where the equilibration measured it (the worst of all
    examples and phases), and `finite`: whether cost, residual and every number of the gradient were. Where they were
    not, parameters and momentum stay as they were.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        x, label = normalise(batch["image"]), batch["label"]
        (cost, aux), grads = value_and_grad(state.params, x, label, jax.random.split(key, x.shape[0]))
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        residual = getattr(aux.solution, "residual", None)
        worst = {} if residual is None else {"residual": jnp.max(residual).astype(jnp.float32)}
        finite = _all_finite((cost, worst, grads))
        new = TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1)
        rank = rank_of_label(aux.output, label)
        metrics = {
            "cost": cost.astype(jnp.float32),
            "top1_error": jnp.mean(rank >= 1, dtype=jnp.float32),
            "top5_error": jnp.mean(rank >= 5, dtype=jnp.float32),
            "finite": finite,
            **worst,
        }
        return _keep_if(finite, new, state), metrics

    return jax.jit(step, donate_argnums=0)


def _all_finite(tree: Any) -> jax.Array:
    """Of every number by itself: a norm of large finite ones overflows."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _keep_if(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """`new`, or `old` with the counters of `new` so that schedule and data go on."""

    def choose(new_leaf: jax.Array, old_leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(new_leaf.dtype, jnp.integer):
            return new_leaf
        return jnp.where(finite, new_leaf, old_leaf)

    return jax.tree.map(choose, new, old)


def eval_step(
    forward: Callable[[Params, jax.Array], Any],
    cost: Cost,
    normalise: Callable[[jax.Array], jax.Array],
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """Sums over the images of a batch whose `mask` is true, compiled.

    They are `count`, `cost`, and the wrong ones `top1` and `top5`.
    `forward(params, x)` gives all layer states of ONE image, the output last; `cost(output, label)` is of
    one image.
    """

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        x, label, mask = normalise(batch["image"]), batch["label"], batch["mask"]
        output = jax.vmap(lambda one: forward(params, one)[-1])(x).astype(jnp.float32)
        costs = jax.vmap(cost)(output, label)
        rank = rank_of_label(output, label)
        return {
            "count": jnp.sum(mask, dtype=jnp.int32),
            "cost": jnp.sum(jnp.where(mask, costs, 0.0)),
            "top1": jnp.sum(mask & (rank >= 1), dtype=jnp.int32),
            "top5": jnp.sum(mask & (rank >= 5), dtype=jnp.int32),
        }

    return jax.jit(step)


def evaluate(
    step: Callable[[Params, Batch], dict[str, jax.Array]], params: Params, batches: Iterable[Batch]
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
