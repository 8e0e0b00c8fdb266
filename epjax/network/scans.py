"""Marked scans: one that is a run of equal layers is brought to one form, any other is written out step by step.

    h_i = f(theta_i, h_{i-1})  i = 1..n        is      h_n, _ = lax.scan(f, h_0, theta)

It is a run where its carry is a state and nothing else, what it goes over are parameters (or constants), and nothing
of its steps but the last carry is used above. A run begins at a state and ends below a layer: a step that has to be
written out for that, the first or the last, is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun

from epjax.network.cut import before, moves, part, rectified, unmoved
from epjax.network.marks import checkpoint_of, evaluate, is_mark, is_marked_scan, is_of_module, layout, rewritten
from epjax.network.meetings import FIXED, STATE, WEIGHT


@dataclass(frozen=True)
class Steps:
    """A scan's program, and how its arguments and results are laid out: constants, carry, what it goes over."""

    equation: JaxprEqn

    @property
    def body(self) -> ClosedJaxpr:
        """(constants, carry, one of each that it goes over) -> (carry, what each step gives)."""
        body: ClosedJaxpr = self.equation.params["jaxpr"]
        return body

    @property
    def length(self) -> int:
        """How many steps."""
        return int(self.equation.params["length"])

    def parted(self, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants, carry, and what it goes over, from the first step to the last."""
        consts, carry = layout(self.equation)
        return list(values[:consts]), list(values[consts : consts + carry]), list(values[consts + carry :])

    def in_order(self, values: Sequence[Any], i: int) -> list[Any]:
        """What step i takes of what it goes over."""
        at = self.length - 1 - i if self.equation.params["reverse"] else i
        return [lax.index_in_dim(v, at, keepdims=False) for v in values]


@dataclass(frozen=True)
class Form:
    """How a scan is a run: which part of its carry is the state, which arguments it needs, which steps stand outside.

    `fixed` gives the constants among them.
    """

    part: int
    needs: tuple[int, ...]
    fixed: ClosedJaxpr
    first: bool
    last: bool


def arranged(program: ClosedJaxpr, *, runs: bool = True) -> ClosedJaxpr:
    """The program with every marked scan as a run, where it is one and `runs` are asked for, or step by step."""
    if not any(map(is_marked_scan, program.jaxpr.eqns)):
        return program
    forms = dict(_forms(program)) if runs else {}

    def of_scan(whole: Jaxpr, equation: JaxprEqn, found: list[Any]) -> list[Any]:
        form = forms.get(id(equation))
        return step_by_step(whole, equation, found) if form is None else _run(Steps(equation), found, form)

    return rewritten(program, of_scan)


def step_by_step(_: Jaxpr, equation: JaxprEqn, found: list[Any]) -> list[Any]:
    """A scan written out."""
    steps, rows = Steps(equation), []
    consts, carry, xs = steps.parted(found)
    for i in range(steps.length):
        results = evaluate(steps.body, [*consts, *carry, *steps.in_order(xs, i)], step_by_step)
        carry, row = results[: len(carry)], results[len(carry) :]
        rows.append(row)
    rows = rows[::-1] if equation.params["reverse"] else rows
    return [*carry, *(lax.concatenate([v[None] for v in column], 0) for column in zip(*rows, strict=True))]


def _run(steps: Steps, found: list[Any], form: Form) -> list[Any]:
    """One scan over what the layers of a run read, from the first to the last, and the steps that stand outside."""
    consts, carry, _ = map(len, steps.parted(found))
    shared = [i for i in form.needs if i < consts]
    over = [i for i in form.needs if i >= consts + carry]
    rows = [found[i] for i in over]

    def step(h: Array, row: Sequence[Array], fixed: Sequence[Array]) -> Array:
        given = {consts + form.part: h, **dict(zip((*over, *shared), (*row, *fixed), strict=True))}
        unread = {i: jnp.zeros(v.shape, v.dtype) for i, v in enumerate(steps.body.in_avals) if i not in given}
        inputs = [given[i] if i in given else unread[i] for i in range(len(found))]
        result: Array = evaluate(steps.body, inputs, step_by_step)[form.part]
        return result

    def layer(h: Array, row: list[Array]) -> tuple[Array, None]:
        return step(h, row, jaxpr_as_fun(form.fixed)()), None

    if kept := checkpoint_of(steps.body.jaxpr):  # as the function asks for it, to be found again
        layer = jax.checkpoint(layer, policy=None if kept is True else kept, prevent_cse=False)
    h, fixed = found[consts + form.part], [found[i] for i in shared]
    if form.first:
        h = step(h, steps.in_order(rows, 0), fixed)
    stack = [lax.rev(v, (0,)) if steps.equation.params["reverse"] else v for v in rows]
    h, _ = lax.scan(layer, h, [lax.slice_in_dim(v, form.first, steps.length - form.last) for v in stack])
    if form.last:
        h = step(h, steps.in_order(rows, steps.length - 1), fixed)
    return [h if i == form.part else None for i in range(len(steps.equation.outvars))]  # nobody reads the others


def _forms(program: ClosedJaxpr) -> Iterator[tuple[int, Form]]:
    """The scans that are runs, by their equations."""
    whole, output = program.jaxpr, program.jaxpr.outvars[0]
    equations = before(whole.eqns, [output])
    kinds: dict[Any, int] = dict.fromkeys(whole.constvars, FIXED) | dict.fromkeys(whole.invars[:-1], WEIGHT)
    kinds[whole.invars[-1]] = STATE
    states: set[Any] = {whole.invars[-1]}
    for equation in equations:
        kind = max((kinds[v] for v in equation.invars if isinstance(v, Var)), default=FIXED)
        if is_mark(equation):
            kind, end = STATE, equation.outvars[0]
            is_first = is_of_module(equation) and equation.invars[0] not in states
            states.add(rectified(program, equations, end, output) if is_first else end)
        elif is_marked_scan(equation):
            kind = STATE
            if form := _form(program, equations, Steps(equation), kinds, states):
                states.add(equation.outvars[form.part])
                yield id(equation), form
        kinds.update(dict.fromkeys(equation.outvars, kind))


def _form(
    program: ClosedJaxpr, equations: list[JaxprEqn], steps: Steps, kinds: dict[Any, int], states: set[Any]
) -> Form | None:
    """How a scan is a run; None where it is not."""
    body, invars, outvars = rewritten(steps.body, step_by_step), steps.equation.invars, steps.equation.outvars
    consts, carry, _ = map(len, steps.parted(invars))
    output = program.jaxpr.outvars[0]
    used = {i for i, v in enumerate(outvars) if v is output or any(v in e.invars for e in equations)}
    parts = _carried(body, consts, carry, used) if max(used) < carry else set()
    if len(parts) != 1 or (end := _end(body, carried := min(parts))) is None:
        return None
    h, needs = consts + carried, _reads(body, carried)
    shared, over = [invars[i] for i in needs if i < consts], [invars[i] for i in needs if i >= consts + carry]
    if not _are_layers_own(equations, kinds, shared, over):
        return None
    open_end = is_mark(end) and is_of_module(end)  # a clip that comes next is taken into the layer
    below, out = body.jaxpr.invars[h], outvars[carried]
    if open_end and rectified(body, body.jaxpr.eqns, below, body.jaxpr.outvars[carried]) is not below:
        return None
    last = unmoved(equations, output, outvars) is out
    last = last or (open_end and rectified(program, equations, out, output) is not out)
    fixed, first = part(program, before(equations, shared), [], shared), invars[h] not in states
    return Form(carried, needs, fixed, first, last) if steps.length - first - last >= 2 else None


def _reads(body: ClosedJaxpr, part: int) -> tuple[int, ...]:
    """The arguments that a part of the carry comes from."""
    end = body.jaxpr.outvars[part]
    read = {v for e in before(body.jaxpr.eqns, [end]) for v in e.invars if isinstance(v, Var)} | {end}
    return tuple(i for i, v in enumerate(body.jaxpr.invars) if v in read)


def _carried(body: ClosedJaxpr, consts: int, carry: int, parts: set[int]) -> set[int]:
    """The parts of the carry that those come from, themselves too."""
    read = {i - consts for part in parts for i in _reads(body, part) if consts <= i < consts + carry}
    return parts if read <= parts else _carried(body, consts, carry, parts | read)


def _end(body: ClosedJaxpr, part: int) -> JaxprEqn | None:
    """The mark that a part of the carry is, or the clip of a module's mark; None where it is no state."""
    equations, output = body.jaxpr.eqns, body.jaxpr.outvars[part]
    makers = {v: e for e in equations for v in e.outvars}
    end = makers.get(unmoved(equations, output, marks=False))
    if end is None or is_mark(end):
        return end
    below = makers.get(next((v for v in end.invars if isinstance(v, Var)), None))
    if below is None or not is_mark(below) or not is_of_module(below):
        return None
    return end if rectified(body, equations, below.outvars[0], output) is end.outvars[0] else None


def _are_layers_own(equations: list[JaxprEqn], kinds: dict[Any, int], shared: list[Any], over: list[Any]) -> bool:
    """Whether what the steps share are constants, and what they go over such or parameters laid out anew."""
    of = {v: kinds[v] for v in (*shared, *over) if isinstance(v, Var)}
    if any(of.get(v, FIXED) != FIXED for v in shared if isinstance(v, Var)):
        return False
    made = [e for e in before(equations, over) if kinds[e.outvars[0]] != FIXED]
    return max(of.values(), default=FIXED) == WEIGHT and all(moves(e) or e.primitive.name in LAID for e in made)


LAID = frozenset({"concatenate", "stack", "slice", "dynamic_slice", "gather"})
