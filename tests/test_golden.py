"""Oracle: the numbers of version 0.1, written before its files were moved.

Catches a move, a new option or a faster path that changes a gradient: every scheme, traversal, update, perturbation and
model, float64, to 1e-12 of the layer's norm.
"""

import json
import shutil
import warnings

import numpy as np
import pytest

from epjax.runs.metrics import read_lines
from experiments import vgg5
from tests.golden import old_run
from tests.golden_cases import PATH, numbers, options

GOLDEN = json.loads(PATH.read_text())


@pytest.mark.parametrize("name", options())
def test_gradients_are_those_of_version_0_1(name, x64):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="iterations=")
        found = numbers(options()[name])
    assert found.keys() == GOLDEN[name].keys()
    for layer, expected in GOLDEN[name].items():
        scale = 1.0 if layer == "cost" else max(expected[0], 1e-300) * 10
        np.testing.assert_allclose(found[layer], expected, rtol=0, atol=1e-12 * scale, err_msg=f"{name}, layer {layer}")


@pytest.mark.filterwarnings("ignore:iterations=")
def test_a_run_of_version_0_1_goes_on_as_if_nothing_had_moved(tmp_path, capsys):
    """Metrics of steps 8 to 12 after 6 steps by version 0.1; another processor may round otherwise."""
    shutil.copytree(PATH.parent / "run", tmp_path / "run")
    assert vgg5.main(old_run.arguments(old_run.data(tmp_path / "data"), tmp_path / "run", 12)) == 0
    assert "going on from step 6 of 12" in capsys.readouterr().out
    found, expected = read_lines(tmp_path / "run" / "metrics.jsonl"), read_lines(PATH.parent / "whole_metrics.jsonl")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    clock, since = {"seconds", "images_per_second", "waiting"}, {"displacement", "gradient_norm", "silent_layers"}
    for line, other in zip(found, expected, strict=True):
        assert line.keys() - since == other.keys()
        for name in other.keys() - clock:
            assert line[name] == pytest.approx(other[name], rel=1e-5), name
