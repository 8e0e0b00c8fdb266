"""Oracles: a quick run on the CPU, a clock that is over.

Catches the command for accelerators breaking where there is none, a row begun when the minutes are over, a training
that does not step, a table that is not written.
"""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import gpu


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    assert command.main(["gpu", "--quick", "--json", str(path)]) == 0
    return path


def test_a_quick_run_fills_every_row(quick):
    rows = json.loads(quick.read_text())["rows"]
    assert all(set(gpu.COLUMNS) <= set(row) and row["why"] is None for row in rows)
    assert all(row["images_per_second"] > 0 for row in rows)
    steps = [row for row in rows if row["steps"] is None]
    assert len(steps) == 3 * sum(len(case.precisions) for case in gpu.QUICK)
    for row in steps:
        assert row["name"] == "backpropagation" or row["flops_over_backprop"] > 1
    assert {row["name"] for row in rows if row["steps"]} == {"EP centered, training", "backpropagation, training"}


def test_the_table_is_written_beside_it(quick):
    page = quick.with_suffix(".md").read_text()
    assert "### Gradient steps" in page
    assert "### A short training" in page
    assert quick.with_suffix(".png").stat().st_size > 10_000


def test_no_row_is_begun_when_the_minutes_are_over(tmp_path):
    rows = gpu.run(quick=True, minutes=0.0)
    assert rows
    assert all(row["why"] == "left out: the minutes were over" for row in rows)
    assert len(gpu.tables(rows)) == 2
    gpu.draw(rows, tmp_path / "gpu.png")
