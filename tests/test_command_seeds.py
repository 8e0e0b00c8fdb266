"""Oracle: the same run by itself. `--seeds N` is N runs and their mean.

Would catch: a seed that does not reach its run, runs that share a folder, a second start that trains again, a mean of
other numbers, a folder of one run that is overwritten.
"""

import json
from statistics import mean, stdev

import pytest

from epjax.runs.metrics import evaluations, read_lines, training
from experiments import perceptron

RUN = ["--data", "demo", "--batch-size", "504", "--max-steps", "2", "--log-every", "1"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Seeds 3 and 4."""
    directory = tmp_path_factory.mktemp("seeds")
    assert perceptron.main(["--workdir", str(directory), "--seed", "3", "--seeds", "2", *RUN]) == 0
    return directory


def lines(directory):
    return read_lines(directory / "metrics.jsonl")


def test_each_is_the_run_of_its_seed(seeds, tmp_path):
    assert perceptron.main(["--workdir", str(tmp_path), "--seed", "4", *RUN]) == 0
    alone, among = training(lines(tmp_path)), training(lines(seeds / "seed-4"))
    assert [line["cost"] for line in alone] == [line["cost"] for line in among]
    assert json.loads((seeds / "seed-4" / "config.json").read_text())["seeds"] is None
    assert sorted(path.name for path in seeds.iterdir()) == ["seed-3", "seed-4"]
    assert [line["cost"] for line in among] != [line["cost"] for line in training(lines(seeds / "seed-3"))]


def test_the_same_command_goes_on_and_tells_mean_and_spread(seeds, capsys):
    before = lines(seeds / "seed-3")
    assert perceptron.main(["--workdir", str(seeds), "--seed", "3", "--seeds", "2", *RUN]) == 0
    assert lines(seeds / "seed-3") == before
    costs = [evaluations(lines(seeds / f"seed-{seed}"))[-1]["val_cost"] for seed in (3, 4)]
    shown = capsys.readouterr().out
    assert f"{mean(costs):.4f} ± {stdev(costs):.4f}" in shown
    assert "seed 4, 2 of 2" in shown
    assert "not 2" not in shown  # --seeds is no change of the recipe


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_seeds(count, tmp_path, capsys):
    assert perceptron.main(["--workdir", str(tmp_path), "--seeds", count, *RUN]) == 1
    assert capsys.readouterr().err == f"error: --seeds must be at least 1, got {count}\n"
    assert not list(tmp_path.iterdir())


def test_a_folder_of_one_run_is_left_alone(seeds, capsys):
    assert perceptron.main(["--workdir", str(seeds / "seed-3"), "--seeds", "2", *RUN]) == 1
    assert "seed-3 holds one run: give --seeds another folder" in capsys.readouterr().err
    assert not list((seeds / "seed-3").glob("seed-*"))
