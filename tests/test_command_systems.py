"""The commands of Hopfield, resistive and oscillator networks and of the perceptron, on the embedded demo.

Catches a system that trains by another path than everything else: checkpoints, resume, metrics, prediction, diagnosis,
rates by layer, parameters that no circuit can have after a step.
"""

import json

import jax
import numpy as np
import pytest

from epjax.data import open_dataset
from epjax.hardware import Device
from epjax.runs import diagnose, predict
from epjax.runs.experiment import find
from epjax.runs.metrics import evaluations, read_lines, training
from epjax.runs.trained import load

NAMES = ("hopfield", "resistive", "oscillators", "perceptron")


def run(name, workdir, *more):
    argv = [
        "--workdir",
        str(workdir),
        "--data",
        "demo",
        "--hidden",
        "16",
        "--max-steps",
        "6",
        "--log-every",
        "1",
        *more,
    ]
    return find(name).main(argv)


def losses(workdir):
    return [line["cost"] for line in training(read_lines(workdir / "metrics.jsonl"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_system_is_trained_stopped_continued_asked_and_diagnosed(name, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(name, whole) == 0
    assert run(name, parts, "--max-steps", "3") == 0
    assert run(name, parts, "--max-steps", "6") == 0
    assert losses(parts) == losses(whole)
    (*_, last) = evaluations(read_lines(whole / "metrics.jsonl"))
    assert last["val_images"] == 500
    trained = load(whole)
    if name == "resistive":
        assert all(np.all(layer["conductance"] >= 0) for layer in trained.params)
    if name != "perceptron":
        assert all("free_residual" in line for line in training(read_lines(whole / "metrics.jsonl")))
    data = open_dataset("demo")
    picture = tmp_path / "image.jpg"
    picture.write_bytes(data.val[0].image)
    assert predict.main([str(picture), "--workdir", str(whole)]) == 0
    nudge = ["--nudge", data.classes[0], "--out", str(tmp_path / "errors.png")]
    assert predict.main([str(picture), "--workdir", str(whole), *nudge]) == 0
    assert diagnose.main(["--workdir", str(whole), "--images", "4"]) == 0
    told = capsys.readouterr().out
    opened = [line for line in told.split("\nepoch ")[0].splitlines() if line[0] != " "]
    assert [line.split()[0] for line in opened][:6] == ["model", "data", "devices", "method", "plan", "recipe"]
    assert "hidden 16 (not 256)" in told
    assert "q = " in told
    assert ("free phase: residual" in told) == (name != "perceptron")
    assert json.loads((whole / "config.json").read_text())["pixels"] == "unit"


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_gradient_trains_a_system(name, tmp_path):
    options = ["--max-steps", "2", "--learning-rate", "0.002", "--free-iterations", "100"]
    assert run(name, tmp_path / "exact", "--algorithm", "exact", *options) == 0
    assert run(name, tmp_path / "ep", "--beta", "1e-4", "--iterations", "100", *options) == 0
    exact, ep = losses(tmp_path / "exact"), losses(tmp_path / "ep")
    assert abs(exact[1] - exact[0]) > 1e-3
    np.testing.assert_allclose(ep, exact, rtol=1e-3)


DEVICE = (
    "--errors",
    "recomputed",
    "--scheme",
    "centered",
    "--beta",
    "0.5",
    "--read-noise",
    "1e-3",
    "--mismatch",
    "0.5",
)


@pytest.mark.parametrize("name", ["resistive", "perceptron"])
def test_a_device_is_trained_stopped_continued_asked_and_diagnosed(name, tmp_path, capsys):
    """Noise of the step's key, so that a run goes on as it would have; another chip is another run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(name, whole, *DEVICE) == 0
    assert run(name, parts, *DEVICE, "--max-steps", "3") == 0
    assert run(name, parts, *DEVICE, "--max-steps", "6") == 0
    assert losses(parts) == losses(whole)
    assert run(name, parts, *DEVICE, "--chip", "1") == 1
    assert "chip was not set, is 1" in capsys.readouterr().err
    assert run(name, tmp_path / "other", *DEVICE, "--chip", "1", "--max-steps", "3") == 0
    assert losses(tmp_path / "other") != losses(whole)[:3]
    trained = load(whole)
    assert isinstance(trained.network, Device)
    data = open_dataset("demo")
    picture = tmp_path / "image.jpg"
    picture.write_bytes(data.val[0].image)
    nudge = ["--nudge", data.classes[0], "--out", str(tmp_path / "errors.png")]
    assert predict.main([str(picture), "--workdir", str(whole), *nudge]) == 0
    assert diagnose.main(["--workdir", str(whole), "--images", "4"]) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--read-noise", "1e-3"), "errors must be 'recomputed' on a Device"),
        ((*DEVICE, "--read-noise", "-1"), "read_noise must be a finite number, at least 0, got -1.0"),
        ((*DEVICE, "--adc-bits", "0"), "bits of the ADC must be a finite number, at least 1, got 0.0"),
        ((*DEVICE, "--adc-bits", "8", "--adc-range", "1", "1"), "low of the ADC must be below its high"),
    ],
)
def test_what_no_device_can_be_is_one_sentence(options, sentence, tmp_path, capsys):
    assert run("hopfield", tmp_path / "run", *options) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_rates_by_layer(tmp_path):
    """A layer of rate 0 stays, the other moves as it did."""
    assert run("hopfield", tmp_path / "one", "--max-steps", "1", "--layer-rates", "1", "1") == 0
    assert run("hopfield", tmp_path / "still", "--max-steps", "1", "--layer-rates", "0", "1") == 0
    first = find("hopfield").make_network(load(tmp_path / "one").config, 10).init(jax.random.key(0), (28, 28, 3))
    one, still = load(tmp_path / "one").params, load(tmp_path / "still").params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), still[0], first[0])
    jax.tree.map(np.testing.assert_array_equal, still[1], one[1])
    assert not np.allclose(one[0]["kernel"], first[0]["kernel"], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hopfield", ["--layer-rates", "1", "1", "1"], "layer_rates must hold a number for each of 2 layers, got 3"),
        ("hopfield", ["--layer-rates", "1", "-1"], "layer_rates must not be negative, got (1.0, -1.0)"),
        ("hopfield", ["--algorithm", "bp"], "algorithm must be ep or exact for Hopfield, which settles"),
        ("hopfield", ["--traversal", "sweep"], "equilibration of Hopfield must be epjax.Relax(...), got Sweep("),
        ("hopfield", ["--scheme", "holomorphic"], "scheme='holomorphic' needs analytic responses"),
        ("perceptron", ["--traversal", "relax"], "equilibration of a predictive coding network must be Sweep"),
        ("oscillators", ["--bias", "0"], "bias must be positive"),
        ("resistive", ["--input-gain", "-1"], "input_gain must be positive"),
        ("perceptron", ["--momentum", "1"], "momentum must be at least 0 and less than 1, got 1"),
    ],
)
def test_wrong_options_are_one_sentence(name, options, message, tmp_path, capsys):
    assert run(name, tmp_path / "run", *options) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "Traceback" not in told
