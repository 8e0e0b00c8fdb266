"""Oracle: the public names themselves, and the source of the tests. The fast lane calls every public function.

Catches a function or a command that is made public, or whose only test leaves the lane, and that nobody tries in the
two minutes before a commit. A name counts where a test of the lane, or what it uses of its module, says it.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import epjax
import epjax.data
import epjax.hardware
from epjax.runs import cli
from tests.pairs import ROOT

pytestmark = pytest.mark.fast

ROOMS = (
    epjax,
    epjax.activation,
    epjax.cost,
    epjax.data,
    epjax.drive,
    epjax.energy,
    epjax.hardware,
    epjax.models,
    epjax.systems,
)


def public(room: ModuleType) -> set[str]:
    """The functions and classes that a module gives away, by `__all__` or by what it defines."""
    names = getattr(room, "__all__", None) or [
        name for name, what in vars(room).items() if getattr(what, "__module__", "") == room.__name__
    ]
    given = {name: getattr(room, name) for name in names if not name.startswith("_")}
    return {name for name, what in given.items() if inspect.isroutine(what) or inspect.isclass(what)}


def is_fast(marked: ast.AST) -> bool:
    return "mark.fast" in ast.unparse(marked)


def of_the_lane(path: Path) -> Iterator[ast.AST]:
    """The fast tests of a file, and what of the file they use."""
    body = ast.parse(path.read_text()).body
    defined = {name: node for node in body for name in names_of(node)}
    whole = "pytestmark" in defined and is_fast(defined["pytestmark"])
    tests = [node for name, node in defined.items() if name.startswith("test")]
    ask = [node for node in tests if whole or any(map(is_fast, node.decorator_list))]
    seen = set()
    while ask:
        node = ask.pop()
        if node not in seen:
            seen.add(node)
            yield node
            ask += [defined[name] for name in said(node) if name in defined]


def names_of(node: ast.AST) -> list[str]:
    """What a statement of a module defines; imports define nothing here."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def said(node: ast.AST) -> set[str]:
    """The identifiers in a piece of source, arguments too: they may be fixtures."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    found |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return found | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}


def commands(node: ast.AST) -> set[str]:
    """First words of the lists in a piece of source, those that ask for help left out."""
    lists = [n.elts for n in ast.walk(node) if isinstance(n, ast.List) and n.elts]
    lists += [n.args for n in ast.walk(node) if isinstance(n, ast.Call) and n.args]
    words = [[e.value if isinstance(e, ast.Constant) else None for e in elements] for elements in lists]
    return {first for first, *rest in words if isinstance(first, str) and "--help" not in rest}


LANE = [
    node
    for path in sorted((ROOT / "tests").glob("*.py"))
    for node in of_the_lane(path)
    if path.name != Path(__file__).name
]


def test_every_public_function_is_called():
    said_there = set().union(*map(said, LANE))
    missing = {room.__name__: sorted(public(room) - said_there) for room in ROOMS}
    assert {room: names for room, names in missing.items() if names} == {}


def test_every_command_is_run():
    assert set(cli.COMMANDS) - set().union(*map(commands, LANE)) == set()


def test_the_lane_is_told_from_the_rest(tmp_path):
    """This file's own reading of marks, helpers and fixtures."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n"
        "def helper(): return one()\n"
        "def fixture(): return two()\n"
        "@pytest.mark.fast\n"
        "def test_fast(fixture): helper(); run(['train', 'x']); run(['plan', '--help'])\n"
        "def test_other(): three()\n"
    )
    nodes = list(of_the_lane(file))
    found = set().union(*map(said, nodes))
    assert {"one", "two"} <= found
    assert "three" not in found
    assert set().union(*map(commands, nodes)) & {"train", "plan"} == {"train"}
