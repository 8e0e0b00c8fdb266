"""SGD as the paper's, and its learning rate: a linear warm-up, one cosine decay."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from epjax.network import Params


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


def per_batch(schedule: optax.Schedule, updates: int) -> optax.Schedule:
    """lr(t) = schedule(t // updates), for an optimiser that is asked `updates` times a batch."""
    return schedule if updates == 1 else lambda step: schedule(step // updates)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    layer_rates: Sequence[float] = (),
) -> optax.GradientTransformation:
    """SGD as PyTorch defines it: d = g + wd p;  m <- mu m + d;  p <- p - lr r_k (d + mu m) in layer k.

    Without Nesterov p <- p - lr r_k m. The decay joins the gradient of every parameter, biases too, BEFORE the
    momentum. `layer_rates` are the r_k from the first layer on; none: 1. Raises ValueError for a momentum outside
    [0, 1) and a rate that is negative.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1, got {momentum}")
    if any(not rate >= 0 for rate in layer_rates):
        raise ValueError(f"layer_rates must not be negative, got {tuple(layer_rates)}")
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        *([_by_layer(tuple(layer_rates))] if layer_rates else []),
        optax.scale_by_learning_rate(learning_rate),
    )


def _by_layer(rates: tuple[float, ...]) -> optax.GradientTransformation:
    def scaled(updates: Params, params: Params | None) -> Params:
        del params
        return tuple(
            jax.tree.map(lambda u, rate=rate: rate * u, layer) for rate, layer in zip(rates, updates, strict=True)
        )

    return optax.stateless(scaled)


def check_layer_rates(rates: Sequence[float], params: Params) -> None:
    """Raises ValueError unless there is one for each layer."""
    if len(rates) != len(params):
        raise ValueError(f"layer_rates must hold a number for each of {len(params)} layers, got {len(rates)}")
