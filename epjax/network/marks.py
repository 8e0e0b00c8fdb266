"""Marks: where the states of a network stand inside a function, and the function's program laid out between them.

    h_k = state(h_k)        k = 1..L, an identity in every other use

A mark is a name in a jax program, that of `jax.ad_checkpoint.checkpoint_name`: it survives every transformation, and
`jax.checkpoint_policies.save_only_these_names` may ask for it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
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
    """f's program with its calls written out, and the shapes of what it gives; scans stay as they are.

    Raises `Refused` for marks where no state can be: in a loop, a branch, or a function with a derivative of its own.
    """
    program, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
    return rewritten(program, alone), shape


Scans = Callable[[Jaxpr, JaxprEqn, list[Any]], list[Any]]
"""(program, equation, its arguments) -> what stands in the place of a marked scan."""


def rewritten(program: ClosedJaxpr, scans: Scans) -> ClosedJaxpr:
    """The program with its calls written out, and with what `scans` makes of each marked scan."""

    def written(*inputs: Array) -> list[Array]:
        return evaluate(program, inputs, scans)

    return jax.make_jaxpr(written)(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in program.in_avals))


def evaluate(closed: ClosedJaxpr, inputs: Sequence[Any], scans: Scans) -> list[Any]:
    """What a program gives, equation by equation, its calls written out."""
    program = closed.jaxpr
    values = dict(zip((*program.constvars, *program.invars), (*closed.consts, *inputs), strict=True))
    for equation in program.eqns:
        found = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        values.update(zip(equation.outvars, _results(program, equation, found, scans), strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in program.outvars]


def _results(program: Jaxpr, equation: JaxprEqn, found: list[Any], scans: Scans) -> list[Any]:
    kind, inner = equation.primitive.name, inner_program(equation)
    marked = any(map(holds_marks, _programs(equation)))
    if not marked and (kind not in CALLS or _is_elementary(equation)):
        return alone(program, equation, found)
    if is_marked_scan(equation):
        return scans(program, equation, found)
    if inner is None or kind.startswith("custom"):
        why = "its own derivative would be lost" if kind.startswith("custom") else "a layer has its place in a program"
        raise Refused(f"marks a state inside {PLACES.get(kind, kind)}, but must mark it outside, for {why}")
    return evaluate(inner, found, scans)


def is_marked_scan(equation: JaxprEqn) -> bool:
    """Whether an equation is a scan of at least one step, with marks in it."""
    is_scan = equation.primitive.name == "scan" and equation.params["length"] > 0
    return is_scan and holds_marks(equation.params["jaxpr"].jaxpr)


def layout(scan: JaxprEqn) -> tuple[int, int]:
    """How many of a scan's arguments are constants, and how many its carry; jax 0.12 says it in another way."""
    if "ft_in" in scan.params:
        consts, carry, _ = scan.params["ft_in"].unpack()
        return len(list(consts.vals)), len(list(carry.vals))
    return scan.params["num_consts"], scan.params["num_carry"]


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


def checkpoint_of(program: Jaxpr) -> Any:
    """The policy of a `jax.checkpoint` around marks, or True where it has none; False where there is no such call."""
    calls = (e for e in program.eqns if e.primitive.name in ("checkpoint", "remat2") and holds_marks(e.params["jaxpr"]))
    found = next(calls, None)
    return False if found is None else found.params.get("policy") or True


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
