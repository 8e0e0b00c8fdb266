"""The precision of products that a command chooses: by the device, once for a run.

Would catch: a run that goes on with other products on another machine, a choice that is not recorded or not shown, an
asked precision that is overruled, a GPU without TF32 units that is taken for one with them.
"""

import json
from types import SimpleNamespace

import pytest

from epjax.runs import precision
from epjax.runs.trained import load
from experiments import perceptron

RUN = ["--data", "demo", "--batch-size", "504", "--log-every", "1"]
DEVICES = [
    ("cpu", None, "float32"),
    ("tpu", None, "bfloat16"),
    ("gpu", "7.5", "float32"),  # Turing
    ("gpu", "8.0", "tf32"),  # Ampere
    ("cuda", "12.0", "tf32"),  # Blackwell
    ("gpu", "gfx90a", "float32"),  # another maker's
    ("metal", None, "float32"),
]


@pytest.mark.fast
@pytest.mark.parametrize(("platform", "capability", "expected"), DEVICES)
def test_precision_of_device(platform, capability, expected):
    known = {"platform": platform} | ({"compute_capability": capability} if capability else {})
    assert precision.of_device(SimpleNamespace(**known)) == expected


def recorded(workdir):
    return json.loads((workdir / "config.json").read_text())["precision"]


def test_a_run_keeps_the_precision_that_its_machine_chose(tmp_path, monkeypatch, capsys):
    argv = ["--workdir", str(tmp_path), *RUN]
    monkeypatch.setattr(precision, "of_device", lambda device: "bfloat16")
    assert perceptron.main([*argv, "--max-steps", "1"]) == 0
    assert recorded(tmp_path) == "bfloat16"
    assert "bfloat16 products" in capsys.readouterr().out
    monkeypatch.undo()
    assert perceptron.main([*argv, "--max-steps", "2"]) == 0
    assert recorded(tmp_path) == "bfloat16"
    out = capsys.readouterr().out
    assert "bfloat16 products" in out
    assert "with precision" not in out
    assert load(tmp_path).network.precision == "bfloat16"
    assert perceptron.main([*argv, "--max-steps", "3", "--precision", "float32"]) == 1
    assert "precision" in capsys.readouterr().err
    assert recorded(tmp_path) == "bfloat16"


def test_an_asked_precision_is_taken_and_told(tmp_path, capsys):
    assert perceptron.main(["--workdir", str(tmp_path), *RUN, "--max-steps", "1", "--precision", "tf32"]) == 0
    assert recorded(tmp_path) == "tf32"
    assert "precision tf32 (not float32)" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_precision_names_those_that_are_known(capsys):
    with pytest.raises(SystemExit):
        perceptron.EXPERIMENT.parse(["--workdir", "w", "--data", "demo", "--precision", "fp8"])
    assert "auto" in capsys.readouterr().err


def test_networks_of_an_experiment_have_a_settled_precision():
    config = perceptron.EXPERIMENT.parse(["--workdir", "w", "--data", "demo"])
    assert config.gradient.precision == "auto"
    assert perceptron.EXPERIMENT.make_network(config, 10).precision == "float32"
