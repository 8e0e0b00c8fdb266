"""Draws every picture of experiments/results anew from the numbers beside it; runs nothing.

python -m experiments.figures

The benchmarks' pictures: python -m benchmarks all --from-results.
"""

import json
import sys
from pathlib import Path

from epjax.runs import compare
from epjax.runs.records import Run
from epjax.runs.seeds import grouped
from experiments.figures import front
from experiments.reproduce.__main__ import FIGURES, load

RESULTS = Path(__file__).parents[1] / "results"


def main(results: Path = RESULTS) -> int:
    """Exit code 0."""
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, list):
            compare.draw(grouped([recorded(run) for run in content]), path.with_suffix(".png"))
        elif content.get("figure") in FIGURES:
            load(content["figure"]).draw(content["cells"], path.with_suffix(".png"))
        else:
            continue
        print(path.with_suffix(".png").name)
    front.main(results / front.OUT.name)
    return 0


def recorded(run: dict[str, object]) -> Run:
    """A run as `epjax compare` keeps it."""
    config, lines = run["config"], run["evaluations"]
    return Run(Path(str(run["name"])), config, lines, {}, {})  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
