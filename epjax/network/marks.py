"""Marks: where the states of a network stand inside a function, and the function's program laid out between them.

    h_k = state(h_k)        k = 1..L, an identity in every other use

A mark is a name in a jax program, that of `jax.ad_checkpoint.checkpoint_name`: it survives every transformation, and
`jax.checkpoint_policies.save_only_these_names` may ask for it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from epjax.network.kinks import SMOOTH, alone, inner_program
from epjax.network.modules import Refused, draws
from epjax.shapes import Inexact

PREFIX = "epjax.state"
MODULE = f"{PREFIX}/module"
"""The mark of a module's output, that a library sets and nobody asked for."""


def state(h: Inexact[Array, "*state"], name: str = "") -> Inexact[Array, "*state"]:
    """h_k = h: marks h [...] as a state of the network that `from_function` makes of the function around it.

    An identity: it is differentiated, mapped, compiled and evaluated as if it were not there. `name` is what tables and
    errors call the layer that ends here. Raises ValueError for what is not one array of floating or complex numbers.
    """
    if not hasattr(h, "shape") or not hasattr(h, "dtype") or not jnp.issubdtype(h.dtype, jnp.inexact):
        what = f"an array of {h.dtype}" if hasattr(h, "dtype") else f"a {type(h).__name__}"
        raise ValueError(f"h must be one array of floating numbers, got {what}: mark each state by itself")
    marked: Array = checkpoint_name(jnp.asarray(h), f"{PREFIX}/state/{name}")
    return marked


def of_module(h: Array, name: str) -> Array:
    """The mark of a module's output; a rectifier right after it is taken into its layer."""
    marked: Array = checkpoint_name(h, f"{MODULE}/{name}")
    return marked


def is_mark(equation: JaxprEqn) -> bool:
    """Whether an equation is a mark."""
    name = equation.params.get("name")
    return equation.primitive.name.startswith("name") and isinstance(name, str) and name.startswith(PREFIX)


def is_of_module(equation: JaxprEqn) -> bool:
    """Whether a mark is that of a module's output."""
    return str(equation.params["name"]).startswith(MODULE)


def called(equation: JaxprEqn) -> str:
    """The name that a mark was given, or ""."""
    return str(equation.params["name"]).split("/", 2)[2]


def laid_out(f: Callable[..., Any], *arguments: Any) -> tuple[ClosedJaxpr, Any]:
    """f's program with its calls written out and marked scans unrolled, and the shapes of what it gives.

    Raises `Refused` for marks where no state can be: in a loop, a branch, or a function with a derivative of its own.
    """
    program, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)

    def written_out(*inputs: Array) -> list[Array]:
        return _evaluate(program.jaxpr, program.consts, inputs)

    return jax.make_jaxpr(written_out)(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in program.in_avals)), shape


def _evaluate(program: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    values = dict(zip((*program.constvars, *program.invars), (*consts, *inputs), strict=True))
    for equation in program.eqns:
        found = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        values.update(zip(equation.outvars, _results(program, equation, found), strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in program.outvars]


def _results(program: Jaxpr, equation: JaxprEqn, found: list[Any]) -> list[Any]:
    kind, inner = equation.primitive.name, inner_program(equation)
    marked = any(map(holds_marks, _programs(equation)))
    if not marked and (kind not in CALLS or _is_elementary(equation)):
        return alone(program, equation, found)
    if kind == "scan" and marked and equation.params["length"]:
        return _unrolled(equation, found)
    if inner is None or kind.startswith("custom"):
        why = "its own derivative would be lost" if kind.startswith("custom") else "a layer has its place in a program"
        raise Refused(f"marks a state inside {PLACES.get(kind, kind)}, but must mark it outside, for {why}")
    return _evaluate(inner.jaxpr, inner.consts, found)


CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Calls that say nothing of how they are to be evaluated."""
PLACES = {
    "while": "a while loop",
    "cond": "a branch (cond or switch)",
    "custom_jvp_call": "a jax.custom_jvp function",
    "custom_vjp_call": "a jax.custom_vjp function",
}


def _is_elementary(equation: JaxprEqn) -> bool:
    """Whether a call is one function to who looks for kinks: by its name, or as an elementwise clip."""
    name = equation.params.get("name")
    return name in SMOOTH or name in ("clip", "relu", "relu6", "hard_tanh")


def _unrolled(equation: JaxprEqn, found: list[Any]) -> list[Any]:
    """A scan step by step."""
    settings = equation.params
    body, length, n = settings["jaxpr"], settings["length"], settings["num_consts"]
    consts, carry, xs = found[:n], found[n : n + settings["num_carry"]], found[n + settings["num_carry"] :]
    rows: dict[int, list[Any]] = {}
    for i in reversed(range(length)) if settings["reverse"] else range(length):
        slices = [lax.index_in_dim(v, i, keepdims=False) for v in xs]
        results = _evaluate(body.jaxpr, body.consts, [*consts, *carry, *slices])
        carry, rows[i] = results[: len(carry)], results[len(carry) :]
    columns = zip(*(rows[i] for i in range(length)), strict=True)
    return [*carry, *(lax.concatenate([v[None] for v in column], 0) for column in columns)]


def refuse_impure(program: Jaxpr, effects: Any) -> None:
    """Raises `Refused` for random numbers and for effects."""
    if effects:
        names = ", ".join(sorted({type(e).__name__ for e in effects}))
        raise Refused(f"has effects ({names}), which each phase would repeat: it must be a function of its arguments")
    for equation in _equations(program):
        if equation.primitive.name.startswith(("random_", "threefry", "rng_")):
            raise draws(equation.primitive.name)


def _equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in program.eqns:
        yield equation
        for inner in _programs(equation):
            yield from _equations(inner)


def holds_marks(program: Jaxpr) -> bool:
    """Whether there is a mark, at any depth."""
    return any(map(is_mark, _equations(program)))


def _programs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an equation: bodies, branches, calls."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one
