"""EP as a loss function: its value is the cost at the free state, its gradient is EP's estimate.

    loss(params, x, y) = 1/B sum_b C(h_L^free(x_b), y_b)        jax.grad(loss)(params, x, y) = the gradient of
                                                                `epjax.value_and_grad(net, cost)`

For a training loop that calls `jax.grad` or `jax.value_and_grad` on a loss: it changes the line that defines the loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from epjax.checks import check_batch
from epjax.cost import Cost, as_cost
from epjax.estimator import exact_value_and_grad, value_and_grad
from epjax.network import Network, Params
from epjax.network.listed import from_flax
from epjax.shapes import Array, Inexact, Shaped
from epjax.systems import System, as_system
from epjax.systems.pcn.network import mean_cost
from epjax.systems.system import ValueAndGrad

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx

Algorithm = Literal["ep", "bp", "exact"]


@runtime_checkable
class Loss(Protocol):
    """(params, x, y, key) -> the mean cost of a batch, a scalar; with `has_aux` (cost, output) instead."""

    def __call__(
        self, params: Any, x: Shaped[Array, "batch ..."], y: Shaped[Array, "batch ..."], key: Array | None = None
    ) -> Any:
        """Labels y [B, ...], or class weights [B, ..., classes]; `key` is for a scheme or a device that draws."""
        ...


def ep_loss(
    net: Network | System | nn.Sequential | nnx.Sequential,
    cost: Cost | str,
    *,
    algorithm: Algorithm = "ep",
    has_aux: bool = False,
    **options: Any,
) -> Loss:
    """``loss(params, x, y, key=None)``, the mean cost of the batch, for `jax.grad`; `options` as in `value_and_grad`.

    * For `params` its gradient is that of `value_and_grad`, the same numbers, times the incoming cotangent.
    * For `x` it is EP's too, -T_0 of the nudged states. For soft labels `y` it is dC/dy at the free output, which asks
      for no equilibrium.
    * Where no gradient is asked for, the nudged phase is not run. Where one is, it runs with the forward pass.
    * With `has_aux` the loss is ``(cost, output)`` with the free output [B, classes], for jax's own `has_aux`.
    * `algorithm="bp"` is the same function of the same network with the gradient of backpropagation; "exact" is that
      of a system that settles, by implicit differentiation, and for a network the same as "bp".

    y [B] or [B, classes]; `key` is for ``scheme="random"`` alone. A flax `Sequential` is taken as
    `from_flax` takes it, and `params` are then its own: a linen model's ``model.init(...)["params"]``, or the nnx model
    itself, under `nnx.grad`. What `from_flax(model, x)` and `from_function` make is taken with the model's own
    parameters, too. Weights that the model ties have the sum over their places. Raises ValueError for an
    unknown algorithm, "bp" of a system that has no forward pass, and for a model without layers, and where the loss is
    given what `check_batch` refuses; the loss raises TypeError where it is differentiated twice, in forward mode, or
    through the output beside it.
    """
    if algorithm not in get_args(Algorithm):
        raise ValueError(f"algorithm must be one of {', '.join(get_args(Algorithm))}, got {algorithm!r}")
    if "argnums" in options:
        raise ValueError("argnums must be given to jax.grad, which says for what the loss is differentiated")
    model = _model(net)
    cost = as_cost(cost)
    value_and_grad(model.net, cost, **options)  # refuses a wrong option for both algorithms
    clamped = options.get("perturbation") == "clamp"

    settles = as_system(model.net).default_free() is not None
    if algorithm == "bp" and settles:
        name = type(model.net).__name__
        raise ValueError(f"algorithm must be ep or exact for {name}, which settles and has no forward pass, got 'bp'")
    method = options.get("free")

    def free(params: Params, held: Held, x: Array, y: Array, key: Array | None) -> Any:
        del key
        here = model.holding(held)
        if isinstance(here, Network):
            value, output = mean_cost(here, cost, params, x, y)
        else:
            output = jax.vmap(lambda x: here.free(params, x, method).output)(x)
            value = jnp.mean(jax.vmap(cost)(output, y))
        return (value, output) if has_aux else value

    def estimate(net: Network | System, argnums: tuple[int, ...]) -> ValueAndGrad:
        if algorithm == "exact":
            return exact_value_and_grad(net, cost, argnums=argnums, free=method)
        return value_and_grad(net, cost, argnums=argnums, **options)

    by_itself = algorithm == "bp" or (algorithm == "exact" and not settles)
    of_batch = free if by_itself else _with_gradient(free, model, cost, has_aux, estimate)

    def loss(
        params: Any, x: Inexact[Array, "batch ..."], y: Shaped[Array, "batch ..."], key: Array | None = None
    ) -> Any:
        theta, held = model.split(params)
        x, y = check_batch(as_system(model.net), cost, theta, x, y, clamped=clamped)
        return of_batch(theta, held, x, y, key)

    return loss


def _with_gradient(
    free: Callable[..., Any],
    model: "_Model",
    cost: Cost,
    has_aux: bool,
    estimate: Callable[[Network | System, tuple[int, ...]], ValueAndGrad],
) -> Callable[..., Any]:
    """`free`, the cost at the free state, whose reverse mode runs the nudged phase."""
    of_batch = jax.custom_vjp(free)

    def forward(*arguments: Any) -> tuple[Any, tuple[Params, Array | None, Array | None]]:
        params, held, x, y, key = _once(jax.tree.map(lambda leaf: leaf.value, arguments))
        argnums = (0, 1) if arguments[2].perturbed else (0,)
        (value, aux), grads = estimate(model.holding(held), argnums)(params, x, y, key)
        d_y = None
        if arguments[3].perturbed:
            d_y = jax.grad(lambda y: jnp.mean(jax.vmap(cost)(aux.output, y)))(y)
        d_params, d_x = grads if len(grads) == 2 else (*grads, None)
        return (value, aux.output) if has_aux else value, (d_params, d_x, d_y)

    def backward(gradient: tuple[Params, Array | None, Array | None], cotangents: Any) -> tuple[Any, ...]:
        of_value, of_output = cotangents if has_aux else (cotangents, SymbolicZero)
        if has_aux and not isinstance(of_output, SymbolicZero):
            raise TypeError("the output that ep_loss gives beside the cost has no gradient: use the cost alone")
        if isinstance(of_value, SymbolicZero):
            return None, None, None, None, None
        scale = jnp.asarray(of_value)  # a number where a caller of jax.vjp gives one
        d_params, d_x, d_y = jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradient)
        return d_params, None, d_x, d_y, None

    of_batch.defvjp(forward, backward, symbolic_zeros=True)
    return of_batch


@jax.custom_jvp
def _once(arguments: Any) -> Any:
    """The arguments of an estimate. What comes here with a derivative already is to be differentiated twice."""
    return arguments


@_once.defjvp
def _twice(primals: tuple[Any], tangents: tuple[Any]) -> Any:
    del primals, tangents
    raise TypeError("ep_loss has no second derivatives: EP estimates the first, and algorithm='bp' has both")


Held = tuple[Any, ...]
"""What an nnx model holds beside its parameters, one state a module: statistics, counters, keys."""


@dataclass(frozen=True)
class _Model:
    """A model as a network, and how its own parameters become one entry a layer and what it holds."""

    net: Network | System
    split: Callable[[Any], tuple[Params, Held]]
    rebuild: Callable[[Held], Network]

    def holding(self, held: Held) -> Network | System:
        """The network with what the model holds now, which may be other than it was."""
        return self.rebuild(held) if jax.tree.leaves(held) else self.net


def _model(model: Any) -> _Model:
    if isinstance(model, Network) or (isinstance(model, System) and not isinstance(model, type)):
        return _Model(model, lambda params: (_own(params), ()), lambda held: model)  # type: ignore[return-value, arg-type]
    if not isinstance(model, nn.Sequential | nnx.Sequential):
        others = "epjax.from_flax(model, x) and epjax.from_function make networks of other models"
        allowed = f"an epjax.Network, another system, or a flax Sequential, whose layers can be told apart ({others})"
        raise ValueError(f"net must be {allowed}, got {type(model).__name__}")
    net = from_flax(model)
    places = [i for i, module in enumerate(model.layers) if isinstance(module, nn.Module | nnx.Module)]
    without: Params = ({},) * (len(net) - len(places))  # functions after the last module are a layer of their own
    if isinstance(model, nn.Sequential):
        return _Model(net, lambda params: ((*_of_linen(params, places), *without), ()), lambda held: net)
    listed = list(model.layers)
    parts: list[Any] = [nnx.split(listed[i], nnx.Param, ...) for i in places]

    def split(params: Any) -> tuple[Params, Held]:
        theta, held = _of_nnx(params, len(listed), places, [graph for graph, _, _ in parts])
        return (*theta, *without), held

    def rebuild(held: Held) -> Network:
        modules = [nnx.merge(graph, theta, rest) for (graph, theta, _), rest in zip(parts, held, strict=True)]
        at = dict(zip(places, modules, strict=True))
        return from_flax([at.get(i, function) for i, function in enumerate(listed)])

    return _Model(net, split, rebuild)


def _own(params: Any) -> Any:
    """The parameters of an nnx model, where the model is given."""
    return nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params


def _of_linen(params: Any, places: list[int]) -> list[Any]:
    if not isinstance(params, Mapping) or not set(params) <= {f"layers_{i}" for i in places}:
        given = f"keys {', '.join(map(str, params))}" if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f"params must be model.init(...)['params'] of the nn.Sequential (layers_0, ...), got {given}")
    return [params.get(f"layers_{i}", {}) for i in places]


def _of_nnx(params: Any, length: int, places: list[int], graphs: list[Any]) -> tuple[list[Any], Held]:
    """Parameters and what else is held, one each a module. Raises ValueError for another model than at the start."""
    if not isinstance(params, nnx.Sequential):
        raise ValueError(f"params must be the nnx.Sequential itself, got {type(params).__name__}")
    found: list[Any] = [nnx.split(params.layers[i], nnx.Param, ...) for i in places if i < len(params.layers)]
    if len(params.layers) != length or [graph for graph, _, _ in found] != graphs:
        raise ValueError(
            "params must be the nnx.Sequential that ep_loss was given, unchanged but for the values it holds: "
            "make the loss anew after train(), eval() or another change"
        )
    return [theta for _, theta, _ in found], tuple(rest for _, _, rest in found)
