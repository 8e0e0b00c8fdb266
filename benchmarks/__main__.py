"""The command: `python -m benchmarks NAME [--json FILE] [--quick]`; `all` rebuilds RESULTS.md and its pictures."""

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks import report
from benchmarks.report import Benchmark
from epjax.runs import machine

NAMES = (
    *("gradients", "cost", "depth", "repeat", "residual", "equilibration", "precision"),
    *("pipeline", "layouts", "upkeep", "systems", "zoo", "growth", "field", "peers"),
)
ALONE = ("gpu",)
"""Not among all: it asks for an accelerator."""
CONCERNS = {"peers": ("peers",), "minutes": ("peers", "gpu"), "data": ("gpu",)}
"""Options of some benchmarks, and whose they are."""
HERE = Path(__file__).parent
BUILD = Path("build") / "benchmarks"


@dataclass(frozen=True)
class Options:
    """Measure what equilibrium propagation costs and how near it comes to backpropagation."""

    name: tyro.conf.Positional[str]
    """One of gradients, cost, depth, repeat, residual, equilibration, precision, pipeline, layouts, upkeep, systems,
    zoo, growth, field, peers; gpu, on an accelerator; or all."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write rows, machine and versions here, and the picture beside it as a PNG."""
    quick: bool = False
    """Small networks, few repeats: under a minute, to see that it works."""
    from_results: bool = False
    """With all: draw and write from the JSON files that are there, measure nothing."""
    peers: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """With peers: checkouts of the peers, DIR/NAME, where their addresses cannot be reached."""
    minutes: float | None = None
    """With peers and gpu: begin no row after that time (gpu: 7 if not given)."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="TAR")] = None
    """With gpu: images to train on for a while (imagenet_sample.tar); without, random ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = field(default=None)
    """With all: where RESULTS.md and results/ go (default: this package; with --quick: build/benchmarks)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 for data or files that cannot be used, 2 for an unknown name or option."""
    options = tyro.cli(Options, prog="python -m benchmarks", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if options.name not in (*NAMES, *ALONE, "all"):
        print(f"error: NAME must be one of {', '.join((*NAMES, *ALONE))} or all, got {options.name!r}", file=sys.stderr)
        return 2
    try:
        for option, names in CONCERNS.items():
            if getattr(options, option) is not None and options.name not in names:
                raise ValueError(f"--{option} is an option of {' and '.join(names)}, got it with {options.name}")
        if options.name == "all":
            _all(options, console)
        else:
            module = load(options.name)
            told = {
                "peers": {"peers": options.peers, "minutes": options.minutes},
                "gpu": {"data": options.data, "minutes": options.minutes or 7.0},
            }.get(options.name, {})
            _one(module, options.quick, options.json, console, **told)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def load(name: str) -> Benchmark:
    """The benchmark of that name."""
    return importlib.import_module(f"benchmarks.{name}")  # type: ignore[return-value]


def _one(module: Benchmark, quick: bool, path: Path | None, console: Console, **told: Any) -> None:
    """Measure, show, and write if a path is given; `told` is what one benchmark alone is told."""
    on, start = machine.describe(), time.perf_counter()
    rows = module.run(quick, **told)
    content = report.result(module, rows, quick, on, time.perf_counter() - start)
    if path:
        report.write_json(content, path)
    for table in report.tables(module, rows):
        title = ": ".join(filter(None, (module.NAME, table.caption)))
        console.print(report.rich_table(title, table.columns, table.rows))
    if found := report.targets(module, rows):
        console.print(report.rich_targets(found))
    if path:
        module.draw(rows, path.with_suffix(".png"))
        names = [path.with_suffix(".png").name]
        if module.NAME in ALONE:
            path.with_suffix(".md").write_text(report.page([module], {module.NAME: content}, "."))
            names.append(path.with_suffix(".md").name)
        console.print(f"in {path}, {' and '.join(names)}", highlight=False)


def _all(options: Options, console: Console) -> None:
    """Every benchmark (unless its results are to be taken as they are), then the page and the pictures."""
    out = options.out or (BUILD if options.quick else HERE)
    modules, results = [load(name) for name in NAMES], {}
    for module in modules:
        path = out / "results" / f"{module.NAME}.json"
        if not options.from_results:
            _one(module, options.quick, path, console)
        elif not path.exists():
            continue
        content = json.loads(path.read_text())
        if options.from_results:
            content["targets"] = [vars(target) for target in report.targets(module, content["rows"])]
            module.draw(content["rows"], path.with_suffix(".png"))
        results[module.NAME] = content
    if not results:
        raise FileNotFoundError(f"there are no results in {out / 'results'}: run without --from-results first")
    (out / "RESULTS.md").write_text(report.page(modules, results, "results"))
    console.print(f"in {out / 'RESULTS.md'}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
