"""Training: one step for equilibrium propagation and backpropagation alike.

A step takes any gradient function of the form `(cost, aux), grads = f(params, x, y, key)` where
`aux.output` is the output [B, C]: what computes the gradient is the caller's choice, everything after it is
the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from epjax.network import Params
from epjax.pc.incremental import Update
from epjax.shapes import Array, Bool, Float, Int, Shaped
from epjax.systems.system import ValueAndGrad
from epjax.training.evaluation import Batch, rank_of_label
from epjax.training.vitals import Facts, of_displacement, of_gradient


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a run must remember: float32 parameters, optimiser state, number of steps done (int32 [])."""

    params: Any
    opt_state: Any
    step: Int[Array, ""]


@dataclass(frozen=True)
class Normalise:
    """x = (image / 255 - mean) / std for uint8 images [..., H, W, C]; on the device, so that bytes travel.

    Without a channel, mean () and std (), it leaves what it is given as it is: tokens.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def check_range(self, allowed: tuple[float, float] | None) -> None:
        """Raises ValueError where some pixel would be outside what a system takes."""
        ends = [(pixel - m) / s for m, s in zip(self.mean, self.std, strict=True) for pixel in (0.0, 1.0)]
        if allowed is not None and not allowed[0] <= min(ends) <= max(ends) <= allowed[1]:
            given = f"pixels lie between {min(ends):.3g} and {max(ends):.3g}: take --pixels unit"
            raise ValueError(f"inputs must lie between {allowed[0]:g} and {allowed[1]:g} for this system, but {given}")

    def __call__(
        self, image: Shaped[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """The image, float32."""
        if not self.mean:
            return image
        scale = 1.0 / (255.0 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        shape = (1,) * (image.ndim - 1) + (-1,)
        return image.astype(jnp.float32) * scale.reshape(shape) - shift.reshape(shape)


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
"""(state, batch) -> (new state, metrics)."""


def initial_state(params: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))


def train_step(
    value_and_grad: ValueAndGrad,
    optimiser: optax.GradientTransformation,
    normalise: Callable[[jax.Array], jax.Array],
    seed: int = 0,
    project: Callable[[Params], Params] = lambda params: params,
) -> Step:
    """One update from `{"image": uint8 [B, H, W, C], "label": int32 [B]}`, compiled, its state donated.

    Of a text they are int32 [B, T] both, and errors count tokens.

    Randomness comes from `fold_in(key(seed), step)` and from nothing else; each example has its own key, so that it
    draws the same wherever it lies. The metrics are `cost` (mean), `top1_error` and `top5_error` (shares in [0, 1] of
    this batch, at the parameters before the update), `residual` where the equilibration measured it (the worst of all
    examples and phases), `free_residual` where the free phase was iterated (the worst example), `displacement` of the
    layer where errors are largest beside states (mean of the batch, the stronger phase) and `displaced_layer`, its
    number from 1, where there are nudged phases, `gradient_norm`, `silent_layers`, whose gradient is exactly zero, and
    `finite`: whether cost, residuals and every number of the gradient were. Where they were not, parameters and
    momentum stay as they were. `project` is a system's: it comes after the optimiser.
    """

    def one_update(params: Params, opt_state: Any, x: jax.Array, y: jax.Array, keys: jax.Array) -> Any:
        (cost, aux), grads = value_and_grad(params, x, y, keys)
        updates, opt_state = optimiser.update(grads, opt_state, params)
        return (cost, aux), grads, project(optax.apply_updates(params, updates)), opt_state

    return _compiled(one_update, normalise, seed, of_gradient)


def incremental_train_step(update: Update, normalise: Callable[[jax.Array], jax.Array]) -> Step:
    """The same from an update that has its optimiser inside (`epjax.pc.incremental_update`).

    `finite` is whether cost and new parameters are: there is no one gradient.
    """

    def all_updates(params: Params, opt_state: Any, x: jax.Array, y: jax.Array, keys: jax.Array) -> Any:
        del keys
        seen, params, opt_state = update(params, opt_state, x, y)
        return seen, params, params, opt_state

    return _compiled(all_updates, normalise, seed=0)


def _compiled(
    update: Callable[..., Any],
    normalise: Callable[[jax.Array], jax.Array],
    seed: int,
    facts: Callable[[Params], Facts] = lambda watched: {},
) -> Step:
    """The step around ``((cost, aux), watched, params, opt_state) = update(params, opt_state, x, y, keys)``.

    What is watched must be finite, and metrics are made of it by `facts`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Shaped[Array, ""]]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        x, label = normalise(batch["image"]), batch["label"]
        keys = jax.random.split(key, x.shape[0])
        (cost, aux), watched, params, opt_state = update(state.params, state.opt_state, x, label, keys)
        phases = {"residual": "solution", "free_residual": "free"}
        residuals = {name: getattr(getattr(aux, phase, None), "residual", None) for name, phase in phases.items()}
        worst = {name: jnp.max(r).astype(jnp.float32) for name, r in residuals.items() if r is not None}
        finite = _all_finite((cost, worst, watched))
        new = TrainState(params, opt_state, state.step + 1)
        rank = rank_of_label(aux.output, label)
        metrics = {
            "cost": cost.astype(jnp.float32),
            "top1_error": jnp.mean(rank >= 1, dtype=jnp.float32),
            "top5_error": jnp.mean(rank >= 5, dtype=jnp.float32),
            "finite": finite,
            **worst,
            **facts(watched),
        }
        share = getattr(aux.solution, "displacement", None)
        if share is not None:
            metrics |= of_displacement(share)
        return _keep_if(finite, new, state), metrics

    return jax.jit(step, donate_argnums=0)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    """Of every number by itself: a norm of large finite ones overflows."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _keep_if(finite: Bool[Array, ""], new: TrainState, old: TrainState) -> TrainState:
    """`new`, or `old` with the counters of `new` so that schedule and data go on."""

    def choose(new_leaf: Shaped[Array, "..."], old_leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if jnp.issubdtype(new_leaf.dtype, jnp.integer):
            return new_leaf
        return jnp.where(finite, new_leaf, old_leaf)

    return jax.tree.map(choose, new, old)
