"""Every algorithm by its name, from options to files, on the images that come with epjax.

Catches an algorithm that does not reach the step, that is called by another's name, or that goes on otherwise than it
would have; options that fit no algorithm; a schedule that runs faster where a batch is many updates.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import epjax
from epjax.runs.algorithm import ALGORITHMS
from epjax.runs.config import Gradient, Optimiser, identity
from epjax.runs.diagnose import main as diagnose
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images
from epjax.runs.metrics import evaluations, read_lines
from epjax.runs.table import method
from epjax.training.optimiser import per_batch


@dataclass(frozen=True)
class Network:
    """Two dense layers."""

    hidden: int = 32
    title = "perceptron"

    def make(self, num_classes, images, precision):
        return epjax.models.mlp([self.hidden, num_classes], gain=1.7, precision=precision)


USUAL = Recipe(
    Gradient(traversal="sweep", cost="squared_error", inference_steps=3),
    Optimiser(epochs=2, batch_size=40, learning_rate=0.02, weight_decay=0.0),
)
EXPERIMENT = Experiment("perceptron", "Train.", Network(), {"usual": USUAL}, Images("demo", 28, "none"))
CLOCK = ("seconds", "images_per_second", "waiting")


def train(workdir, *more):
    return EXPERIMENT.main(["--workdir", str(workdir), *more])


def lines(workdir):
    found = read_lines(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in found]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_trains_says_what_it_is_and_goes_on_as_if_it_had_not_stopped(tmp_path, algorithm, capsys):
    for part, steps in (("whole", 6), ("parts", 3), ("parts", 6)):
        assert train(tmp_path / part, "--algorithm", algorithm, "--max-steps", str(steps)) == 0
    shown = capsys.readouterr().out
    assert "going on from step 3 of 6" in shown
    assert ALGORITHMS[algorithm].label in shown
    assert ("EP centered" in shown) == (algorithm == "ep")
    options = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (options["algorithm"], options["inference_steps"], options["inference_rate"]) == (algorithm, 3, 0.1)
    whole, parts = lines(tmp_path / "whole")[-1], lines(tmp_path / "parts")[-1]
    assert whole == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["il", "epc", "ipc"])
def test_it_learns(tmp_path, algorithm):
    more = ["--inference-steps", "6", "--inference-rate", "0.3", "--learning-rate", "0.002"]
    assert train(tmp_path, "--algorithm", algorithm, *more) == 0
    errors = [line["val_top1_error"] for line in evaluations(read_lines(tmp_path / "metrics.jsonl"))]
    assert errors[-1] < 45.0  # 90 is chance


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--algorithm", "il", "--cost", "cross_entropy"], "inference learning clamps the output"),
        (["--algorithm", "ipc", "--cost", "cross_entropy"], "incremental predictive coding clamps the output"),
        (["--algorithm", "epc", "--inference-steps", "0"], "steps of inference must be at least 1, got 0"),
        (["--algorithm", "ipc", "--inference-rate", "2"], "rate of inference must lie in (0, 1], got 2.0"),
        (["--algorithm", "ipc", "--microbatches", "5"], "microbatches must be 1 with algorithm 'ipc', got 5"),
        (["--algorithm", "il", "--diagnose-every", "2"], "diagnose_every needs algorithm 'ep', got 'il'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, options, sentence, capsys):
    assert train(tmp_path, *options) == 1
    assert sentence in capsys.readouterr().err


def test_none_but_ep_is_called_ep():
    for name in ALGORITHMS:
        assert ("EP" in method(Gradient(algorithm=name))) == (name == "ep")
    assert "T = 20, alpha = 0.1" in method(Gradient(algorithm="ipc"))


def test_a_run_of_before_goes_on():
    options = identity(EXPERIMENT.parse(["--workdir", "w", "--inference-steps", "20"]))
    assert not options.keys() & {"inference_steps", "inference_rate", "relaxation"}


def test_the_learning_rate_counts_batches():
    rate = per_batch(lambda t: 1.0 / (1 + t), 3)
    assert [rate(t) for t in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, pytest.approx(1 / 3)]


def test_a_diagnosis_says_what_trained_the_network(tmp_path, capsys):
    source = tmp_path / "mine.py"
    source.write_text("from tests.test_command_algorithms import EXPERIMENT\n")
    from epjax.runs import cli

    argv = ["train", str(source), "--workdir", str(tmp_path / "run"), "--max-steps", "2", "--algorithm", "il"]
    assert cli.main(argv) == 0
    capsys.readouterr()
    assert diagnose(["--workdir", str(tmp_path / "run"), "--images", "4"]) == 0
    assert "trained by inference learning, T = 3" in capsys.readouterr().out
    assert np.isfinite(evaluations(read_lines(tmp_path / "run" / "metrics.jsonl"))[-1]["val_cost"])
