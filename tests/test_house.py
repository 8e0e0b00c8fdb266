"""Oracle: the imports themselves, read from the source, those inside functions too.

Catches an import circle, and an arrow against the floors of the house: a network that knows a system, a system that
knows the estimator, a library that knows its experiments.
"""

import ast

import pytest

from tests.pairs import ROOT

pytestmark = pytest.mark.fast

FLOORS = (
    ("epjax.extras", "epjax.shapes", "epjax.style"),
    ("epjax.network", "epjax.cost"),
    ("epjax.models", "epjax.data", "epjax.perturbation", "epjax.scheme"),
    ("epjax.checks",),
    ("epjax.systems",),
    ("epjax.estimator",),
    ("epjax.loss", "epjax.hardware", "epjax.pc"),
    ("epjax.diagnosis",),
    ("epjax",),
    ("epjax.training",),
    ("epjax.runs", "epjax.__main__"),
    ("epjax.recipes",),
    ("experiments",),
    ("benchmarks",),
)
"""From the ground up: a module imports from its own floor and from those below."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ("epjax", "experiments", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
}


def floor(module):
    """The floor of the longest name that `module` begins with; the bare package is that of its face."""
    found = [(len(name), i) for i, names in enumerate(FLOORS) for name in names if f"{module}.".startswith(f"{name}.")]
    longest, i = max(found)
    known = longest > len("epjax") or module == "epjax" or not module.startswith("epjax.")
    assert known, f"{module} has no floor"
    return i


def imports(path):
    """The modules of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


GRAPH = {module: {i for i in imports(path) if i in MODULES and i != module} for module, path in MODULES.items()}


def test_arrows_point_down():
    wrong = [(m, i) for m, found in GRAPH.items() for i in found if floor(i) > floor(m)]
    assert wrong == []


def test_data_know_nothing_of_energies():
    wrong = [
        (m, i)
        for m in GRAPH
        if m.startswith("epjax.data")
        for i in GRAPH[m]
        if not i.startswith(("epjax.data", "epjax.extras"))
    ]
    assert wrong == []


def test_there_is_no_circle():
    done, path = set(), []

    def walk(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(GRAPH[module]):
            if MODULES[other].name != "__init__.py":  # a package gathers what its modules define
                walk(other)
        done.add(path.pop())

    for module in sorted(GRAPH):
        walk(module)
