"""Optimisers and learning rates by name: SGD as the paper's, optax's own, schedules after a linear warm-up.

        d = direction(gradient, p),    p <- p - lr(t) r_k d    in layer k

Each optimiser of `OPTIMISERS` is the way to its direction d. All share what comes before it, clipping, and what comes
after it: the rates r_k of the layers, the learning rate by a schedule of `SCHEDULES`, the average of the parameters.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from epjax.network import Params, Stacked


def cosine(initial: float, final: float, periods: int, steps_per_period: int = 1) -> optax.Schedule:
    """lr(t) = final + (initial - final) (1 + cos(pi t / periods)) / 2, t = whole periods done.

    With `periods` the epochs and `steps_per_period` the steps in one, the rate changes once an epoch, as
    the paper's does; with `periods` the total of steps it changes at every step.
    """
    done_at = _periods_done(periods, steps_per_period)

    def schedule(step: Any) -> Any:
        done = done_at(step)
        return final + 0.5 * (initial - final) * (1.0 + jnp.cos(jnp.pi * done / periods))

    return schedule


def linear(initial: float, final: float, periods: int, steps_per_period: int = 1) -> optax.Schedule:
    """lr(t) = initial + (final - initial) t / periods, t = whole periods done."""
    done_at = _periods_done(periods, steps_per_period)
    return lambda step: final + (initial - final) * (1.0 - done_at(step) / periods)


def constant(initial: float, final: float, periods: int, steps_per_period: int = 1) -> optax.Schedule:
    """lr(t) = initial; `final` is not used."""
    del final
    _periods_done(periods, steps_per_period)
    return optax.constant_schedule(initial)


def stable_decay(
    initial: float, final: float, periods: int, steps_per_period: int = 1, share: float = 0.2
) -> optax.Schedule:
    """lr(t) = final + (initial - final) min(1, (1 - t / periods) / share), t = whole periods done.

    What follows the warm-up of "warmup-stable-decay": `initial` until the last `share` of the periods, then a line
    to `final` (arXiv:2405.18392). Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be greater than 0 and at most 1, got {share}")
    done_at = _periods_done(periods, steps_per_period)
    return lambda step: final + (initial - final) * jnp.minimum(1.0, (1.0 - done_at(step) / periods) / share)


def _periods_done(periods: int, steps_per_period: int) -> Callable[[Any], jax.Array]:
    """step -> whole periods done, at most all, float32."""
    for name, value in (("periods", periods), ("steps_per_period", steps_per_period)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}")
    return lambda step: jnp.minimum(step // steps_per_period, periods).astype(jnp.float32)


@dataclass(frozen=True)
class Shape:
    """A schedule (initial, final, periods, steps a period) -> lr(t), and how it is told: format of both rates."""

    make: Callable[..., optax.Schedule]
    words: str


SCHEDULES = {
    "cosine": Shape(cosine, "{:g} to {:g} by a cosine"),
    "constant": Shape(constant, "{:g}, constant"),
    "linear": Shape(linear, "{:g} to {:g} in a line"),
    "warmup-stable-decay": Shape(stable_decay, "{:g}, in the end to {:g} in a line"),
}
"""Learning rates by name; a share of the decay is for those that take a `share`."""


def scheduled(
    name: str, initial: float, final: float, periods: int, steps_per_period: int = 1, decay_share: float | None = None
) -> optax.Schedule:
    """The schedule of that name. Raises ValueError for another, and for a share of the decay where there is none."""
    make = _pick("schedule", SCHEDULES, name).make
    if decay_share is None:
        return make(initial, final, periods, steps_per_period)
    takers = [name for name, shape in SCHEDULES.items() if "share" in inspect.signature(shape.make).parameters]
    if name not in takers:
        raise ValueError(f"decay_share is for schedule {' or '.join(takers)}, got {decay_share} with schedule {name!r}")
    if not 0 < decay_share <= 1:
        raise ValueError(f"decay_share must be greater than 0 and at most 1, got {decay_share}")
    return make(initial, final, periods, steps_per_period, decay_share)


def warmed_up(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """lr(t) = schedule(0) (t + 1) / steps for t < steps, then schedule(t - steps): warm-up (arXiv:1706.02677)."""

    def warm(step: Any) -> Any:
        rise = jnp.minimum(1.0, (step + 1) / jnp.maximum(steps, 1))
        return schedule(jnp.maximum(step - steps, 0)) * rise

    return warm if steps else schedule


def per_batch(schedule: optax.Schedule, updates: int) -> optax.Schedule:
    """lr(t) = schedule(t // updates), for an optimiser that is asked `updates` times a batch."""
    return schedule if updates == 1 else lambda step: schedule(step // updates)


Direction = Callable[[float, optax.GradientTransformation], tuple[optax.GradientTransformation, ...]]
"""(momentum, decay) -> links of which the last gives d; `decay` adds wd p to what it is given."""


def _sgd(
    momentum: float, decay: optax.GradientTransformation, nesterov: bool = True
) -> tuple[optax.GradientTransformation, ...]:
    return decay, optax.trace(decay=momentum, nesterov=nesterov)


def _matrices(params: Params) -> Any:
    """Where muon finds matrices: the last two axes of what is 2-D in one layer; None of other parameters."""

    def of(leaf: Any) -> Any:
        if isinstance(leaf, Stacked):
            return jax.tree.map(lambda v: _matrix(v.ndim - 1, 1), leaf)
        return _matrix(leaf.ndim, 0)

    return jax.tree.map(of, params, is_leaf=lambda leaf: isinstance(leaf, Stacked))


def _matrix(ndim: int, first: int) -> Any:
    return optax.contrib.MuonDimensionNumbers(first, first + 1) if ndim == 2 else None


OPTIMISERS: dict[str, Direction] = {
    "sgd": _sgd,
    "adam": lambda momentum, decay: (decay, optax.scale_by_adam(b1=momentum)),
    "adamw": lambda momentum, decay: (optax.scale_by_adam(b1=momentum), decay),
    "lion": lambda momentum, decay: (optax.scale_by_lion(b1=momentum), decay),
    # The sign of -1 undoes that of its own learning rate, which it has because of the Adam within.
    "muon": lambda momentum, decay: (
        optax.contrib.muon(-1.0, beta=momentum, muon_weight_dimension_numbers=_matrices),
        decay,
    ),
}
"""Optimisers by name. All are optax's, every number that is not given has optax's own default.

* sgd, adam: the decay joins the gradient, before the momentum, as PyTorch's SGD and Adam have it.
* adamw, lion, muon: it joins the direction, past the momentum.
* muon: matrices (2-D) are orthogonalised; kernels of convolutions, biases and scales go by the Adam within it.
"""


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
    _check(momentum, layer_rates)
    links = _sgd(momentum, optax.add_decayed_weights(weight_decay), nesterov)
    return optax.chain(*links, *_at_rates(learning_rate, layer_rates))


def named(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    *,
    decay_norms: bool = True,
    layer_rates: Sequence[float] = (),
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """The optimiser of that name: g <- g min(1, clip_norm / |g|);  p <- p - lr r_k d(g, p) in layer k.

    |g| is the norm over all parameters. `momentum` is Nesterov's of sgd, b1 of adam, adamw and lion, beta of muon.
    `weight_decay` multiplies every parameter, or with `decay_norms` False all but biases and the scales of norms.
    Raises ValueError for a name that is not in `OPTIMISERS`, a momentum outside [0, 1), a rate that is negative and a
    clip_norm that is not positive.
    """
    direction = _pick("optimiser", OPTIMISERS, name)
    _check(momentum, layer_rates)
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(f"clip_norm must be a finite number greater than 0, got {clip_norm}")
    decay = optax.add_decayed_weights(weight_decay, None if decay_norms else no_bias_or_scale)
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    return optax.chain(*clip, *direction(momentum, decay), *_at_rates(learning_rate, layer_rates))


def no_bias_or_scale(params: Params) -> Any:
    """False for every parameter called bias or scale, True for all others; the tree of `params`."""

    def is_weight(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        return getattr(path[-1], "key", None) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(is_weight, params)


class Averaged(NamedTuple):
    """State of an optimiser that averages: the average, the weight it has of 1, the optimiser's own state."""

    average: Params
    weight: jax.Array
    of: Any


def averaged(
    optimiser: optax.GradientTransformation,
    ema: float,
    project: Callable[[Params], Params] = lambda params: params,
) -> optax.GradientTransformation:
    """`optimiser` that keeps an exponential moving average of the parameters it makes, in its state.

        W <- D W + (1 - D),    a <- a + (1 - D) / W (p - a)    from W = 0;  p the parameters after the update

    D is `ema`. So a = (1 - D) sum_i D^(t - i) p_i / (1 - D^t), in which the first parameters have no part. `project` is
    what the train step does to the parameters. Raises ValueError for an `ema` outside (0, 1).
    """
    if not 0 < ema < 1:
        raise ValueError(f"ema must be greater than 0 and less than 1, got {ema}")

    def init(params: Params) -> Averaged:
        # A copy: the state is donated, and no buffer twice.
        return Averaged(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.float32), optimiser.init(params))

    def update(updates: Params, state: Averaged, params: Params | None = None) -> tuple[Params, Averaged]:
        assert params is not None
        updates, of = optimiser.update(updates, state.of, params)
        new = project(optax.apply_updates(params, updates))
        weight = ema * state.weight + (1.0 - ema)
        share = (1.0 - ema) / weight
        average = jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p - a), state.average, new)
        return updates, Averaged(average, weight, of)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def evaluated(params: Params, opt_state: Any) -> Params:
    """The parameters that an evaluation is of: their average where the optimiser keeps one, else themselves."""
    return opt_state.average if isinstance(opt_state, Averaged) else params


def _check(momentum: float, layer_rates: Sequence[float]) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1, got {momentum}")
    if any(not rate >= 0 for rate in layer_rates):
        raise ValueError(f"layer_rates must not be negative, got {tuple(layer_rates)}")


def _pick(what: str, table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def _at_rates(
    learning_rate: optax.ScalarOrSchedule, layer_rates: Sequence[float]
) -> tuple[optax.GradientTransformation, ...]:
    """d -> - lr r_k d."""
    own = (_by_layer(tuple(layer_rates)),) if layer_rates else ()
    return (*own, optax.scale_by_learning_rate(learning_rate))


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
