"""A function cut at its marks: what lies between them, each piece a prediction f_k of the states below.

    f_k = phi_k(a_k(theta, h_j for j in sources))       the program walked back from mark k to the marks before it

A value that crosses a mark without being one is computed again from the marks below it, in each piece that needs it.
A clip right before a mark is phi_k. Max-pooling and changes of shape may stand between: max_i clip(a_i) is
clip(max_i a_i), to the bit.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from epjax.network.activation import Activation, identity
from epjax.network.clips import after, clip_of
from epjax.network.kinks import alone
from epjax.network.marks import (
    called,
    checkpoint_of,
    is_mark,
    is_marked_scan,
    is_of_module,
    layout,
    refuse_impure,
    rewritten,
)
from epjax.network.modules import Refused

SHAPES = frozenset({"reshape", "slice", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "transpose", "rev"})
"""What moves numbers and changes none of them, where it gives as many as it takes."""


@dataclass(frozen=True)
class Piece:
    """a_k as a program of the parameters `leaves` and the states of `sources`, in that order; then phi_k."""

    name: str
    program: ClosedJaxpr
    leaves: tuple[int, ...]
    sources: tuple[int, ...]
    activation: Activation

    @property
    def consts(self) -> list[Any]:
        """The constants in its program."""
        return list(self.program.consts)

    def place(self, dtype: Any) -> tuple[Any, ...]:
        """What must not depend on the dtypes that a function is traced with; bounds as numbers of `dtype`."""
        return self.leaves, self.sources, tuple(np.asarray(self.activation.bounds).astype(dtype).tolist())


@dataclass(frozen=True)
class Run:
    """n units in a row, each the pieces `unit` of parameters of its own: a scan with marks.

    `program` gives these parameters, stacks [n, ...], of `leaves`; `read` says which of them each stack comes from.
    """

    n: int
    program: ClosedJaxpr
    leaves: tuple[int, ...]
    read: tuple[tuple[int, ...], ...]
    sources: tuple[int, ...]
    unit: tuple[Piece, ...]
    checkpoint: Any
    """As of `epjax.Repeat`."""

    @property
    def consts(self) -> list[Any]:
        """The constants in its programs."""
        return [*self.program.consts, *(c for piece in self.unit for c in piece.consts)]

    def place(self, dtype: Any) -> tuple[Any, ...]:
        """As of a piece."""
        return self.n, self.leaves, self.read, self.sources, *(piece.place(dtype) for piece in self.unit)

    def own(self, stacks: Sequence[Any], seen: Container[int]) -> tuple[tuple[Any, ...], ...]:
        """Each stack of parameters at the first layer of the unit that reads it, if its leaves are not `seen`."""
        mine = [i for i, leaves in enumerate(self.read) if leaves and not any(j in seen for j in leaves)]
        found = []
        for piece in self.unit:
            found.append(tuple(stacks[i] for i in piece.leaves if i in mine))
            mine = [i for i in mine if i not in piece.leaves]
        return tuple(found)


def cut(program: ClosedJaxpr) -> tuple[Piece | Run, ...]:
    """The pieces of a program ``(*leaves, x) -> output``, from the input up; the last one gives the output.

    A scan with marks is a run (see `epjax.network.scans`). Marks that the output does not depend on are left out.
    Raises `Refused` for random numbers and effects.
    """
    output = program.jaxpr.outvars[0]
    if isinstance(output, Literal):
        raise Refused("gives a number that depends on neither params nor x")
    needed = before(program.jaxpr.eqns, [output])
    refuse_impure(program.jaxpr.replace(eqns=needed), program.effects)
    names = _ends(program, needed, output)
    ends, scans = list(names), {e.outvars[0]: e for e in needed if is_marked_scan(e)}
    return tuple(
        _run(program, needed, ends[: k - 1], scans[end]) if end in scans else _piece(program, needed, ends, k, name)
        for k, (end, name) in enumerate(names.items(), start=1)
    )


def before(equations: Sequence[JaxprEqn], outputs: Sequence[Any], stops: Container[Var] = ()) -> list[JaxprEqn]:
    """The equations that `outputs` need, in order, back to the variables of `stops`."""
    wanted: set[Any] = {v for v in outputs if isinstance(v, Var)}
    found: list[JaxprEqn] = []
    for equation in reversed(equations):
        if wanted & set(equation.outvars):
            found.append(equation)
            wanted |= {v for v in equation.invars if isinstance(v, Var) and v not in stops}
    return found[::-1]


def part(
    program: ClosedJaxpr, equations: Sequence[JaxprEqn], inputs: Sequence[Any], outputs: Sequence[Any]
) -> ClosedJaxpr:
    """Inputs -> outputs by those equations, with the constants that they read."""
    read = {v for e in equations for v in e.invars if isinstance(v, Var)} | {v for v in outputs if isinstance(v, Var)}
    consts = [(v, c) for v, c in zip(program.jaxpr.constvars, program.consts, strict=True) if v in read]
    kept = {"constvars": [v for v, _ in consts], "invars": list(inputs), "outvars": list(outputs)}
    return ClosedJaxpr(program.jaxpr.replace(**kept, eqns=list(equations)), [c for _, c in consts])


def unmoved(equations: Sequence[JaxprEqn], v: Any, stops: Container[Any] = (), *, marks: bool = True) -> Any:
    """What a number was before it was moved, and before marks of it; not beyond `stops`."""
    makers = {v: e for e in equations for v in e.outvars}
    while v not in stops and v in makers and (moves(makers[v]) or (marks and is_mark(makers[v]))):
        v = makers[v].invars[0]
    return v


def _ends(program: ClosedJaxpr, equations: list[JaxprEqn], output: Any) -> dict[Any, str]:
    """The variables that are states, from the input up, with the names of their marks."""
    ends: dict[Any, str] = {}
    same: set[Any] = set()
    for equation in equations:
        end = equation.outvars[0]
        if is_marked_scan(equation):
            ends[end] = ""
            same.add(end)
        if not is_mark(equation):
            continue
        if equation.invars[0] in same:  # a mark of a mark is the same state
            same.add(end)
            continue
        if is_of_module(equation):
            end = rectified(program, equations, end, output)
        if end not in same:
            ends[end] = called(equation)
        same.add(end)
    place = {v: i for i, e in enumerate(equations) for v in e.outvars}
    ends = dict(sorted(ends.items(), key=lambda item: place[item[0]]))
    source = unmoved(equations, output, ends)  # an output that is a reshaped state is that state
    return {v: name for v, name in ends.items() if v is not source} | {output: ends.get(source, "")}


def rectified(program: ClosedJaxpr, equations: list[JaxprEqn], end: Any, output: Any) -> Any:
    """What a module's output becomes by a clip, where nothing else is done with it; or the output itself."""
    at = end
    while at is not output:
        users = [e for e in equations if at in e.invars]
        if len(users) == 1 and is_mark(users[0]) and is_of_module(users[0]):
            at = users[0].outvars[0]
        elif len(users) == 1 and clip_of(program.jaxpr, users[0]):
            return users[0].outvars[0]
        else:
            break
    return end


def _piece(program: ClosedJaxpr, equations: list[JaxprEqn], ends: list[Any], k: int, name: str) -> Piece:
    whole, end, below = program.jaxpr, ends[k - 1], ends[: k - 1]
    kept = before(equations, [end], set(below))
    activation, clips = _clips(program, kept, end)
    kept = [_renamed(e, clips) for e in kept if e.outvars[0] not in clips]
    out = clips.get(end, end)
    read = {v for e in kept for v in e.invars if isinstance(v, Var)} | ({out} if isinstance(out, Var) else set())
    *parameters, x = whole.invars
    leaves = _leaves(parameters, kept, [out])
    sources = tuple(j for j in range(k - 1, 0, -1) if ends[j - 1] in read and j == k - 1)
    sources += tuple(j for j, v in enumerate([x, *below]) if v in read and j not in sources)
    inputs = [*(parameters[i] for i in leaves), *([x, *below][j] for j in sources)]
    return Piece(name, part(program, kept, inputs, [out]), leaves, sources, activation)


def _run(program: ClosedJaxpr, equations: list[JaxprEqn], below: list[Any], scan: JaxprEqn) -> Run:
    *parameters, x = program.jaxpr.invars
    body, (n, _) = scan.params["jaxpr"], layout(scan)
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    consts = [v.val if isinstance(v, Literal) else known[v] for v in scan.invars[:n]]
    closed, h, rows = body.jaxpr.invars[:n], body.jaxpr.invars[n], body.jaxpr.invars[n + 1 :]
    constvars = [*body.jaxpr.constvars, *closed]
    unit = ClosedJaxpr(body.jaxpr.replace(constvars=constvars, invars=[*rows, h]), [*body.consts, *consts])
    start, over = unmoved(equations, scan.invars[n], below), scan.invars[n + 1 :]
    read = tuple(_leaves(parameters, before(equations, [v]), [v]) for v in over)
    leaves = tuple(sorted({i for found in read for i in found}))
    written = rewritten(unit, alone)
    pieces = tuple(piece for piece in cut(written) if isinstance(piece, Piece))  # of a scan in a scan every step is one
    stacks = part(program, before(equations, over), [parameters[i] for i in leaves], over)
    return Run(
        scan.params["length"], stacks, leaves, read, ([x, *below].index(start),), pieces, checkpoint_of(body.jaxpr)
    )


def _leaves(parameters: list[Any], equations: list[JaxprEqn], outputs: list[Any]) -> tuple[int, ...]:
    """The parameters that those equations, or the outputs themselves, are of."""
    read = {v for e in equations for v in e.invars if isinstance(v, Var)} | {v for v in outputs if isinstance(v, Var)}
    return tuple(i for i, v in enumerate(parameters) if v in read)


def _clips(program: ClosedJaxpr, equations: list[JaxprEqn], end: Any) -> tuple[Activation, dict[Any, Any]]:
    """phi, and the results of the equations that it stands for, each with what is there without it."""
    makers = {v: e for e in equations for v in e.outvars}
    found: Activation | None = None
    without: dict[Any, Any] = {}
    at = end
    while maker := makers.get(at):
        operand = next((v for v in maker.invars if isinstance(v, Var)), None)
        if clip := clip_of(program.jaxpr, maker):
            found = clip if found is None else after(clip, found)
            without[at] = operand
        elif not (is_mark(maker) or moves(maker) or _pools(maker)):
            break
        at = operand
    for v in reversed(list(without)):
        without[v] = without.get(without[v], without[v])
    return found or identity, without


def _renamed(equation: JaxprEqn, names: dict[Any, Any]) -> JaxprEqn:
    return equation.replace(invars=[v if isinstance(v, Literal) else names.get(v, v) for v in equation.invars])


def moves(equation: JaxprEqn) -> bool:
    """Whether an equation moves numbers and changes none."""
    if equation.primitive.name not in SHAPES or not isinstance(equation.invars[0], Var) or len(equation.invars) != 1:
        return False
    return _size(equation.invars[0]) == _size(equation.outvars[0])


def _size(v: Any) -> int:
    return math.prod(v.aval.shape)


def _pools(equation: JaxprEqn) -> bool:
    """Whether an equation takes maxima, each of at least one number."""
    settings = equation.params
    if equation.primitive.name == "reduce_max":
        return _size(equation.invars[0]) > 0
    if equation.primitive.name != "reduce_window_max":
        return False
    windows = zip(settings["padding"], settings["window_dimensions"], strict=True)
    dilated = {*settings["base_dilation"], *settings["window_dilation"]} != {1}
    return not dilated and all(max(padded) < size for padded, size in windows)
