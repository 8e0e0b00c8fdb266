"""Oracle: docs/extend.md itself. Its diffs are applied to a copy of the package, and what it says of them is run there.

Catches a change that makes one thing a matter of several files, and a page that no longer tells the truth.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.pairs import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text()
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
FIRST = "from epjax.runs import cli\nfrom epjax.runs.experiment import find\n"


def listings(text, language):
    """(title, content) of every listing of a language; the title may be empty."""
    return re.findall(rf'```{language}(?: title="(.*?)")?\n(.*?)```', text, re.DOTALL)


def apply(diff, path):
    """Lines with a plus come after the lines before them, which must stand in the file once."""
    lines = diff.splitlines()
    added = [line[1:] for line in lines if line.startswith("+")]
    kept = [line[1:] for line in lines if not line.startswith("+")]
    if not kept:
        assert not path.exists()
        path.write_text("\n".join(added) + "\n")
        return
    before, text = "\n".join(kept) + "\n", path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, before + "\n".join(added) + "\n"))


def run(folder, *argv):
    environment = os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *argv], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if listings(text, "diff")])
def test_the_diffs_do_what_the_page_says(section, tmp_path):
    shutil.copytree(ROOT / "epjax", tmp_path / "epjax", ignore=shutil.ignore_patterns("__pycache__"))
    python = listings(SECTIONS[section], "python")
    for path, diff in listings(SECTIONS[section], "diff"):
        apply(diff, tmp_path / path)
    shared = "".join(code for title, code in listings(SECTIONS["A cost"], "python") if not title)
    then = [code for title, code in python if title == "then"]
    assert then
    (tmp_path / "page.py").write_text(shared + FIRST + "\n".join(then))
    run(tmp_path, "page.py")


@pytest.mark.fast
def test_how_many_files_each_thing_touches():
    touched = {name: len(listings(text, "diff")) for name, text in SECTIONS.items()}
    assert touched | {"A cost": 1, "A scheme": 1, "A model with a command": 2} == touched


def test_the_experiment_is_a_command(tmp_path):
    (title, code), *_ = listings(SECTIONS["An experiment"], "python")
    assert len(code.splitlines()) <= 30
    (tmp_path / title).write_text(code)
    shutil.copytree(ROOT / "epjax", tmp_path / "epjax", ignore=shutil.ignore_patterns("__pycache__"))
    told = run(tmp_path, title, "--workdir", "run", "--hidden", "4", "--max-steps", "2")
    assert "perceptron on demo" in " ".join(told.split())
