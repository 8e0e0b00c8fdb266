"""EP as a loss function: its value is the cost at the free state, its gradient is EP's estimate.

    loss(params, x, y) = 1/B sum_b C(h_L^free(x_b), y_b)        jax.grad(loss)(params, x, y) = the gradient of
                                                                `epjax.value_and_grad(net, cost)`

For a training loop that calls `jax.grad` or `jax.value_and_grad` on a loss: it changes the line that defines the loss.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.custom_derivatives import SymbolicZero

from epjax.cost import Cost, check_soft_labels
from epjax.estimator import value_and_grad
from epjax.network import Network, Params
from epjax.network.listed import from_flax
from epjax.systems.pcn.network import mean_cost

Algorithm = Literal["ep", "bp"]


def ep_loss(
    net: Network | nn.Sequential | nnx.Sequential,
    cost: Cost,
    *,
    algorithm: Algorithm = "ep",
    has_aux: bool = False,
    **options: Any,
) -> Callable[..., Any]:
    """``loss(params, x, y, key=None)``, the mean cost of the batch, for `jax.grad`; `options` as in `value_and_grad`.

    * For `params` its gradient is that of `value_and_grad`, the same numbers, times the incoming cotangent.
    * For `x` it is EP's too, -T_0 of the nudged states. For soft labels `y` it is dC/dy at the free output, which asks
      for no equilibrium.
    * Where no gradient is asked for, the nudged phase is not run. Where one is, it runs with the forward pass.
    * With `has_aux` the loss is ``(cost, output)`` with the free output [B, classes], for jax's own `has_aux`.
    * `algorithm="bp"` is the same function of the same network with the gradient of backpropagation.

    x [B, ...], y [B] or [B, classes]; `key` is for ``scheme="random"`` alone. A flax `Sequential` is taken as
    `from_flax` takes it, and `params` are then its own: a linen model's ``model.init(...)["params"]``, or the nnx model
    itself, under `nnx.grad`. Raises ValueError for an unknown algorithm and for a model without layers; the loss raises
    TypeError where it is differentiated twice, in forward mode, or through the output beside it.
    """
    if algorithm not in get_args(Algorithm):
        raise ValueError(f"algorithm must be one of {', '.join(get_args(Algorithm))}, got {algorithm!r}")
    layers, by_layer = _layers(net)
    value_and_grad(layers, cost, **options)  # refuses a wrong option for both algorithms

    def free(params: Params, x: Array, y: Array, key: Array | None) -> Any:
        del key
        value, output = mean_cost(layers, cost, params, x, y)
        return (value, output) if has_aux else value

    of_batch = free if algorithm == "bp" else _with_gradient(free, layers, cost, has_aux, options)

    def loss(params: Any, x: Array, y: Array, key: Array | None = None) -> Any:
        check_soft_labels(cost, y)
        return of_batch(by_layer(params), x, y, key)

    return loss


def _with_gradient(
    free: Callable[..., Any], net: Network, cost: Cost, has_aux: bool, options: dict[str, Any]
) -> Callable[..., Any]:
    """`free`, the cost at the free state, whose reverse mode runs the nudged phase."""
    of_batch = jax.custom_vjp(free)

    def forward(*arguments: Any) -> tuple[Any, tuple[Params, Array | None, Array | None]]:
        params, x, y, key = _once(jax.tree.map(lambda leaf: leaf.value, arguments))
        estimate = value_and_grad(net, cost, argnums=(0, 1) if arguments[1].perturbed else (0,), **options)
        (value, aux), grads = estimate(params, x, y, key)
        d_y = None
        if arguments[2].perturbed:
            d_y = jax.grad(lambda y: jnp.mean(jax.vmap(cost)(aux.output, y)))(y)
        d_params, d_x = grads if len(grads) == 2 else (*grads, None)
        return (value, aux.output) if has_aux else value, (d_params, d_x, d_y)

    def backward(gradient: tuple[Params, Array | None, Array | None], cotangents: Any) -> tuple[Any, ...]:
        of_value, of_output = cotangents if has_aux else (cotangents, SymbolicZero)
        if has_aux and not isinstance(of_output, SymbolicZero):
            raise TypeError("the output that ep_loss gives beside the cost has no gradient: use the cost alone")
        if isinstance(of_value, SymbolicZero):
            return None, None, None, None
        return *jax.tree.map(lambda g: of_value.astype(g.dtype) * g, gradient), None

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


def _layers(model: Any) -> tuple[Network, Callable[[Any], Params]]:
    """The network, and its parameters, one entry a layer, from the model's own."""
    if isinstance(model, Network):
        return model, lambda params: params
    if not isinstance(model, nn.Sequential | nnx.Sequential):
        allowed = "an epjax.Network or a flax Sequential, whose layers can be told apart"
        raise ValueError(f"net must be {allowed}, got {type(model).__name__}")
    net = from_flax(model)
    places = [i for i, module in enumerate(model.layers) if isinstance(module, nn.Module | nnx.Module)]
    split = _of_linen if isinstance(model, nn.Sequential) else _of_nnx
    without: Params = ({},) * (len(net) - len(places))  # functions after the last module are a layer of their own
    return net, lambda params: (*split(params, places), *without)


def _of_linen(params: Any, places: list[int]) -> list[Any]:
    if not isinstance(params, Mapping) or not set(params) <= {f"layers_{i}" for i in places}:
        given = f"keys {', '.join(map(str, params))}" if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f"params must be model.init(...)['params'] of the nn.Sequential (layers_0, ...), got {given}")
    return [params.get(f"layers_{i}", {}) for i in places]


def _of_nnx(params: Any, places: list[int]) -> list[Any]:
    if not isinstance(params, nnx.Sequential):
        raise ValueError(f"params must be the nnx.Sequential itself, got {type(params).__name__}")
    return [nnx.state(params.layers[i], nnx.Param) for i in places]
