"""The command `epjax`. Oracles: the names of the recipes' files, the shell's own completion, a wheel unpacked.

Catches a command or an experiment that cannot be reached by name, a typing error answered by a traceback, an experiment
of a user's that cannot be trained, continued, read or diagnosed as ours can, a file that the wheel lacks.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from epjax.runs import cli
from epjax.runs.experiment import Experiment, find, names
from epjax.runs.metrics import evaluations, read_lines
from tests.pairs import ROOT

pytestmark = pytest.mark.fast

MINE = '''
"""Two dense layers on the images that come with epjax."""

import sys
from dataclasses import dataclass

import epjax
from epjax.runs.config import Gradient, Optimiser
from epjax.runs.experiment import Experiment, Recipe
from epjax.runs.images import Images


@dataclass(frozen=True)
class Network:
    """A perceptron."""

    hidden: int = 8
    """Units of the hidden layer."""

    title = "perceptron"

    def make(self, num_classes, images, precision):
        """Two dense layers."""
        return epjax.models.mlp([self.hidden, num_classes], gain=1.7, precision=precision)


USUAL = Recipe(Gradient(traversal="sweep", beta=0.01), Optimiser(epochs=1, batch_size=40, learning_rate=0.1))
EXPERIMENT = Experiment("mine", "Train a perceptron.", Network(), {"usual": USUAL}, Images("demo", 28, "none"))

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
'''


def test_every_experiment_is_found_and_listed(capsys):
    assert names() == sorted(path.stem for path in (ROOT / "epjax" / "recipes").glob("[a-z]*.py"))
    assert {path.stem for path in (ROOT / "experiments").glob("*.py")} >= set(names())
    assert all(find(name).name == name for name in names())
    assert cli.main(["train", "--list"]) == 0
    listing = capsys.readouterr().out
    assert all(f"  {name} " in listing for name in names())


def test_the_same_command_by_both_names():
    for name in names():
        module = __import__(f"experiments.{name}", fromlist=["main"])
        assert module.EXPERIMENT is find(name)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trian"], "did you mean epjax train?"),
        (["train", "imagenet_vgg11"], "did you mean imagenet_vgg10?"),
        (["train", "nothing_of_the_kind"], "experiment must be one of char_lm, .*, or a Python file"),
        (["train", "absent.py"], "experiment absent.py is not a file"),
    ],
)
def test_a_wrong_name_is_one_sentence(argv, sentence, capsys):
    try:
        code = cli.main(argv)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: .*{sentence}.*\n", error)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\b", text, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("command", ["plan", "hardware", "report", "compare", "predict", "sample", "diagnose", "demo"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: epjax {command} " in " ".join(capsys.readouterr().out.split())


def test_the_site_s_page_of_commands_holds_them_all(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    text = importlib.import_module("commands").page()
    told = {line.removeprefix("$ epjax ") for line in text.splitlines() if line.startswith("$ epjax")}
    assert {f"train {name} --help" for name in names()} <= told
    assert {f"{name} --help" for name in cli.MODULES} <= told
    assert all(f"--{option}" in text for option in ("beta", "learning-rate", "seeds", "precision", "nudge", "width"))
    assert "Traceback" not in text
    assert str(ROOT) not in text


def test_names_complete_in_bash(capsys):
    """As bash itself answers."""
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = f"{script}\nCOMP_WORDS=(epjax train image); COMP_CWORD=2; _shtab_epjax; echo ${{COMPREPLY[@]}}"
    answer = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert answer == ["imagenet_resnet50", "imagenet_vgg10"]


def test_an_experiment_of_ones_own(tmp_path, capsys):
    """Trained by its own command and by `epjax train`, gone on with, then predicted and diagnosed from its folder."""
    mine, folder = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text(MINE)
    assert len(MINE.strip().splitlines()) <= 34
    argv = ["--workdir", str(folder), "--hidden", "6", "--epochs", "2"]
    run = [sys.executable, str(mine), *argv, "--max-steps", "3"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path, env=_environment())
    assert done.returncode == 0, done.stderr
    assert cli.main(["train", str(mine), *argv, "--max-steps", "5"]) == 0
    assert "going on from step 3 of 5" in capsys.readouterr().out
    assert [line["step"] for line in evaluations(read_lines(folder / "metrics.jsonl"))] == [3, 5]
    assert json.loads((folder / "model.json").read_text())["experiment"] == str(mine)
    assert cli.main(["diagnose", "--workdir", str(folder), "--images", "8", "--out", str(tmp_path / "d.png")]) == 0
    assert "switches crossed" in capsys.readouterr().out
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"
    Image.fromarray(np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8)).save(tmp_path / "i.png")
    assert cli.main(["predict", str(tmp_path / "i.png"), "--workdir", str(folder)]) == 0
    assert capsys.readouterr().out.count("%") == 5
    assert cli.main(["compare", str(folder), "--out", str(tmp_path / "c.png")]) == 0
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 0
    assert "<h1" in (tmp_path / "r.html").read_text()
    mine.unlink()
    assert cli.main(["diagnose", "--workdir", str(folder)]) == 1
    assert "mine.py is not a file" in capsys.readouterr().err


def test_the_demo_and_the_plan_of_a_run(tmp_path, capsys):
    small = ["--width", "0.01", "--batch-size", "8"]
    assert cli.main(["demo", "--workdir", str(tmp_path), *small, "--max-steps", "1"]) == 0
    assert [line["step"] for line in evaluations(read_lines(tmp_path / "metrics.jsonl"))] == [1]
    assert cli.main(["plan", "--network", "vgg5", "--image-size", "32", *small, "--devices", "1"]) == 0
    assert "device-hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("x = 1", "must define EXPERIMENT, an epjax.runs.Experiment"), ("EXPERIMENT = 3", "must define EXPERIMENT")],
)
def test_a_file_without_an_experiment(tmp_path, content, sentence, capsys):
    (tmp_path / "empty.py").write_text(content)
    assert cli.main(["train", str(tmp_path / "empty.py")]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"name": "a name"}, "name must be made of letters"), ({"recipes": {}}, "recipes must hold at least one Recipe")],
)
def test_an_experiment_that_is_none(change, sentence):
    usual = find("imagenet_vgg10")
    given = {"name": "mine", "about": "", "network": usual.network, "recipes": usual.recipes}
    with pytest.raises(ValueError, match=sentence):
        Experiment(**given | change)


def test_what_the_wheel_holds(tmp_path):
    """Every module of epjax, the demo's images and their licence, nothing else; a description whose links lead on."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("building a wheel needs hatchling, which needs a package index")
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        described = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
        scripts = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt"))
    listed = subprocess.run(["git", "ls-files", "epjax"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert held == set(listed.stdout.split())
    assert {"epjax/data/demo/fashion_mnist.tar", "epjax/data/demo/NOTICE", "epjax/py.typed"} <= held
    assert "epjax = epjax.__main__:command" in scripts
    assert re.findall(r"!\[[^\]]*\]\((https://[^)]+)/raw/main/[^)]+\.png\)", described)
    assert not re.findall(r"\]\((?!https?:|#)[^)]+\)", described)


def test_the_source_distribution_holds_what_its_tests_need(tmp_path):
    """Every file of the repository; tests of the house and of energies by hand run from it, without a repository."""
    pytest.importorskip("hatchling")
    build = f"from hatchling.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    made = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(tmp_path / made.stdout.split()[-1]) as source:
        source.extractall(tmp_path / "there", filter="data")
    (root,) = (tmp_path / "there").iterdir()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in listed if not (root / name).is_file()} == set()
    asked = ["tests/test_house.py", "tests/test_closed_form.py", "-m", "fast"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *asked]
    where = {**os.environ, "PYTHONPATH": str(root)}
    ran = subprocess.run(command, cwd=root, env=where, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]


HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
{program}
"""


def test_the_demo_trains_without_what_only_unix_has(tmp_path):
    """Windows has none of these modules. (Not run there: they are made absent.)"""
    program = f"""from epjax.recipes import hopfield
options = ["--data", "demo", "--hidden", "8", "--max-steps", "3"]
sys.exit(hopfield.EXPERIMENT.main(["--workdir", {str(tmp_path / "run")!r}, *options]))"""
    code = HIDDEN.format(hidden={"fcntl", "termios", "resource", "pwd", "grp"}, program=program)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("hidden", "program", "sentence"),
    [
        ({"tyro"}, "from epjax.__main__ import command; sys.exit(command())", r"pip install 'epjax\[train\]'"),
        ({"grain"}, "import epjax.data", r"grain is not installed; .*epjax\[train\]"),
        (
            {"tensorflow_datasets"},
            "from epjax.data.sources.arrayrecord import open_prepared; open_prepared('.')",
            r"epjax\[tfds\]",
        ),
    ],
)
def test_a_missing_extra_is_one_sentence(hidden, program, sentence, tmp_path):
    code = HIDDEN.format(hidden=hidden, program=program)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment(), cwd=tmp_path
    )
    assert run.returncode == 1
    assert re.search(sentence, run.stderr.strip().splitlines()[-1])


CORE = "import epjax, jax, jax.numpy as jnp; net = epjax.models.mlp([4, 3]); p = net.init(jax.random.key(0), (5,)); " \
    "print(epjax.value_and_grad(net, 'cross_entropy')(p, jnp.ones((2, 5)), jnp.arange(2), None)[0][0])"  # fmt: skip


def test_epjax_itself_needs_jax_flax_and_optax_alone():
    """A gradient without any extra."""
    hidden = {"tyro", "grain", "PIL", "matplotlib", "tensorboardX", "shtab", "filelock", "tensorflow_datasets"}
    code = HIDDEN.format(hidden=hidden | {"jaxtyping"}, program=CORE)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_environment())
    assert run.returncode == 0, run.stderr


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
