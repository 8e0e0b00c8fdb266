"""Tied weights: a module or a parameter that stands in several layers is one, held once and learnt in all its places.

    gradient for theta = sum over its places of the gradient there

Parameters hold it at its first place; the entries of later layers are without it. What computes with the parameters of
a layer takes them from `spread(ties, params)`, and differentiating through that adds up the places.

An nnx module is its parameters: one that two layers share is tied, and so is a single `nnx.Param`. A linen module that
is listed twice is the same module, as in `nn.Sequential`. The library's own drives (`OneExample`) and other objects are
descriptions: listed twice they are two layers alike, with parameters of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax

from epjax.network.modules import Drive, parts, places

if TYPE_CHECKING:
    from flax import nnx
else:
    from epjax.network import nnx

Path = tuple[Any, ...]
"""Where in a layer's parameters: () is all of them."""


@dataclass(frozen=True)
class Tie:
    """What layer `layer` has at `path` is what layer `first` has at `first_path`; layers count from 1."""

    layer: int
    path: Path
    first: int
    first_path: Path


def ties(drives: Sequence[Drive]) -> tuple[Tie, ...]:
    """Every place that shares its parameters with an earlier one.

    Raises ValueError for a linen module that is a part of two others: which of them holds it cannot be told.
    """
    found: list[Tie] = []
    first: dict[int, tuple[int, Path]] = {}
    for k, drive in enumerate(drives, start=1):
        for path, held in places(drive):
            j, at = first.setdefault(id(held), (k, path))
            if j != k:
                found.append(Tie(k, path, j, at))
    owner: dict[int, tuple[int, int]] = {}
    for k, drive in enumerate(drives, start=1):
        for part, whole in parts(drive):
            j, other = owner.setdefault(id(part), (k, id(whole)))
            if other != id(whole):
                name = type(part).__name__
                what = f"layers {j} and {k} share a part ({name}) of their modules, which is not supported"
                raise ValueError(f"{what}: share whole modules, or make a {name} for each")
    return tuple(found)


def refuse_shared_with_runs(entries: Sequence[Sequence[Drive]], runs: Sequence[int]) -> None:
    """ValueError for a module of a run of equal layers that stands in another entry too; both count from 1.

    The layers of a run have parameters of their own: none of them can be the one that another place shares.
    """
    first: dict[int, int] = {}
    for k, drives in enumerate(entries, start=1):
        for held in (held for drive in drives for _, held in places(drive)):
            j = first.setdefault(id(held), k)
            if j != k and not {j, k}.isdisjoint(runs):
                what = f"layers {j} and {k} share a module ({type(held).__name__}), and a Repeat is one of them"
                raise ValueError(f"{what}, whose layers have parameters of their own: make a module for each")


def own(ties: Sequence[Tie], k: int, theta: Any) -> Any:
    """Layer k's parameters without those that an earlier layer holds."""
    away = {tie.path for tie in ties if tie.layer == k}
    if not away:
        return theta
    if () in away:
        return {}
    return _state({path: v for path, v in _flat(theta).items() if path not in away})


def spread(ties: Sequence[Tie], params: tuple[Any, ...]) -> tuple[Any, ...]:
    """The parameters with what is tied in all of its places; of params that have it already, the same."""
    full = list(params)
    for tie in ties:
        if tie.layer > len(full):
            continue
        theta, source = full[tie.layer - 1], full[tie.first - 1]
        if tie.path == ():
            full[tie.layer - 1] = theta if jax.tree.leaves(theta) else source
        elif tie.path not in (flat := _flat(theta)):
            full[tie.layer - 1] = _state({**flat, tie.path: _flat(source)[tie.first_path]})
    return tuple(full)


def _flat(theta: Any) -> dict[Path, Any]:
    return dict(nnx.to_flat_state(theta)) if isinstance(theta, nnx.State | Mapping) else {}  # type: ignore[arg-type]


def _state(flat: Mapping[Path, Any]) -> Any:
    return nnx.from_flat_state(flat)
