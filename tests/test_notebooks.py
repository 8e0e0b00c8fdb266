"""Oracle: the notebooks. Their code runs here on CPU, and what they show is kept in the files.

Catches a notebook that an API change has broken, a file saved without its outputs or out of order, a path of the host
that it ran on.
"""

import json
import re
from pathlib import Path

import jax
import pytest
from matplotlib import pyplot

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def cells(name):
    """Code and outputs of every code cell, what it installs left out."""
    notebook = json.loads((FOLDER / name).read_text())
    found = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    return [(re.sub(r"%pip .*", "pass", "".join(c["source"])), c["outputs"], c) for c in found]


def test_the_notebooks_are_there():
    assert NOTEBOOKS == [
        "can_my_hardware_learn.ipynb",
        "ep_in_ten_minutes.ipynb",
        "from_flax.ipynb",
        "imagenet_vgg10_tpu.ipynb",
        "imagine.ipynb",
        "train_a_resistive_network.ipynb",
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_code_runs(name, tmp_path, monkeypatch):
    """All cells in one namespace, in order, under jax's usual promotion, without ImageNet."""
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "notebook"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for number, (source, *_) in enumerate(cells(name), start=1):
            exec(compile(source, f"{name}, cell {number}", "exec"), names)
    assert pyplot.get_fignums()
    pyplot.close("all")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_outputs_are_kept(name):
    assert [cell["execution_count"] for *_, cell in cells(name)] == list(range(1, len(cells(name)) + 1))
    kept = [output for _, outputs, _ in cells(name) for output in outputs]
    assert {output["output_type"] for output in kept} <= {"stream", "display_data", "execute_result"}
    assert sum("image/png" in output.get("data", {}) for output in kept) >= 2
    shown = json.dumps([{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in kept])
    assert not re.search(r'["\s(](/|[A-Z]:\\\\)\w', shown)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_installs_what_is_missing(name):
    source, outputs, cell = cells(name)[0]
    assert re.findall(r"%pip (.*)", "".join(cell["source"])) == ['install --quiet "{asked}"']
    assert outputs == []
    (marker,) = re.findall(r'p / "epjax" / "(\w+\.py)"', source)  # by which it finds a clone
    assert (FOLDER.parents[1] / "epjax" / marker).exists()
