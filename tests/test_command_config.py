"""Options and recipes: the printed configuration is the one that runs.

Would catch: a default of ImageNet that is not the paper's, an explicit option that a recipe overrides, a
help text that does not fit a terminal, an option whose name changed.
"""

import json
import re
from pathlib import Path

import pytest

from epjax.runs import help
from epjax.runs.config import Run, describe, flat, identity, store
from epjax.runs.experiment import find, names
from experiments import imagenet_resnet50, imagenet_vgg10, resistive, resnet18, vgg5

pytestmark = pytest.mark.fast

# fmt: off
OPTIONS = [
    "--workdir", "--data", "--algorithm", "--scheme", "--cost", "--perturbation", "--update",
    "--traversal", "--beta", "--iterations", "--epochs", "--max-steps", "--batch-size",
    "--learning-rate", "--weight-decay", "--width", "--image-size", "--skip", "--seed", "--sweeps",
    "--tolerance", "--precision", "--recipe", "--on-bad-image", "--crop", "--num-workers",
    "--num-threads", "--gain", "--warmup-epochs", "--label-smoothing", "--optimiser", "--schedule",
    "--decay-share", "--no-decay-norms", "--clip-norm", "--ema",
]
# fmt: on


def read(*argv, module=imagenet_vgg10):
    return module.EXPERIMENT.parse(["--workdir", "somewhere", *argv])


def fields(module):
    return flat(module.EXPERIMENT.config(Run(Path()))).keys()


@pytest.mark.parametrize("name", names())
def test_every_experiment_has_a_quick_recipe(name):
    """Narrow, and ended after a thousand steps whatever the size of the data; an option that is given wins."""
    experiment = find(name)
    quick = experiment.parse(["--workdir", "w", "--recipe", "quick"])
    assert quick.run.max_steps == 1000
    assert quick.optimiser.batch_size <= 64
    assert getattr(quick.network, "width", 0) <= 0.25
    assert experiment.parse(["--workdir", "w", "--recipe", "quick", "--max-steps", "7"]).run.max_steps == 7
    assert experiment.parse(["--workdir", "w"]).run.max_steps is None


def test_the_paper_s_recipe():
    options = flat(read("--data", "folder:/data/imagenet", "--recipe", "paper"))
    paper = {
        "recipe": "paper",
        "algorithm": "ep",
        "scheme": "centered",
        "cost": "cross_entropy",
        "perturbation": "nudge",
        "traversal": "async",
        "errors": "recomputed",
        "update": "mod_pgd",
        "beta": 0.05,
        "iterations": 10,
        "batch_size": 256,
        "learning_rate": 0.02,
        "final_learning_rate": 2e-6,
        "weight_decay": 2e-4,
        "epochs": 50,
        "cosine": "epoch",
        "width": 1.0,
        "gain": 1.0,
        "image_size": 224,
    }
    assert {name: options[name] for name in paper} == paper
    usual = flat(read("--data", "folder:/data/imagenet"))
    changed = {"recipe": "sweep", "traversal": "sweep", "errors": "carried", "beta": 5e-4}
    assert usual == {**options, **changed}
    assert usual["sweeps"] == 1


def test_the_demo_has_its_own_recipe_and_explicit_options_win(monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    demo = flat(read())
    assert demo["recipe"] == "demo"
    assert demo["width"] < 1
    changed = flat(read("--width", "0.5", "--beta", "0.1"))
    assert changed == {**demo, "width": 0.5, "beta": 0.1}
    assert flat(read("--recipe", "paper"))["width"] == 1.0
    monkeypatch.setenv("IMAGENET_DIR", "/data/imagenet")
    assert flat(read())["recipe"] == "sweep"


@pytest.mark.parametrize(
    ("dataset", "cost", "batch_size", "learning_rate", "output_gain"),
    [
        ("mnist", "squared_error", 16, 0.04, None),
        ("cifar10", "cross_entropy", 64, 0.01, None),
        ("cifar100", "squared_error", 16, 0.04, None),
        ("imagenet32", "cross_entropy", 256, 0.01, None),
        ("imagenet32", "squared_error", 256, 0.04, 0.2),
    ],
)
def test_vgg5_gets_the_paper_s_recipe(dataset, cost, batch_size, learning_rate, output_gain):
    options = flat(read("--dataset", dataset, "--cost", cost, module=vgg5))
    paper = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "output_gain": output_gain,
        "beta": 0.02,
        "iterations": 5,
        "errors": "recomputed",
        "weight_decay": 3e-4,
        "epochs": 100,
        "final_learning_rate": 1e-6,
        "gain": 1.0,
    }
    assert {name: options[name] for name in paper} == paper


def test_resnet50_gets_the_field_s_recipe():
    options = flat(read("--data", "folder:/data/imagenet", module=imagenet_resnet50))
    standard = {
        "recipe": "standard",
        "traversal": "sweep",
        "scheme": "centered",
        "epochs": 90,
        "warmup_epochs": 5,
        "batch_size": 256,
        "learning_rate": 0.1,
        "final_learning_rate": 0.0,
        "weight_decay": 1e-4,
        "label_smoothing": 0.1,
        "cosine": "step",
        "crop": "resized",
        "image_size": 224,
        "width": 1.0,
    }
    assert {name: options[name] for name in standard} == standard
    assert options.keys() ^ flat(read("--data", "folder:/data/imagenet")).keys() == {"gain", "skip"}


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="recipe must be one of auto, sweep, paper, demo, quick, got 'best'"):
        read("--recipe", "best")


@pytest.mark.parametrize(
    "argv", [["--algorithm", "sgd"], ["--bet", "0.1"], ["--epochs", "many"], ["--optimiser", "sdg"]]
)
def test_an_unknown_option_or_value_ends_with_code_2(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        read(*argv)
    assert exit.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize("module", [imagenet_vgg10, imagenet_resnet50, vgg5, resnet18])
def test_help_fits_a_terminal_and_names_every_option(module, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit:
        module.main(["--help-all"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    own = {"--skip", "--gain", "--image-size", "--crop"} - {f"--{name.replace('_', '-')}" for name in fields(module)}
    assert [name for name in OPTIONS if f" {name} " not in text and name not in own] == []


@pytest.mark.parametrize("module", [imagenet_vgg10, imagenet_resnet50, vgg5, resnet18, resistive])
def test_the_first_help_is_short(module, capsys):
    """The options that matter first, with the defaults of the data asked for, an example, and where the rest is."""
    with pytest.raises(SystemExit) as exit:
        module.main(["--data", "demo", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 60
    assert max(len(line) for line in text.splitlines()) <= 80
    assert [name for name in help.FIRST if f"--{name} " not in text] == []
    assert re.search(r"--epochs INT .*\[\d+\]", text)
    assert help.ALL in text


def test_the_configuration_is_shown_with_what_was_changed():
    config = read("--data", "demo", "--beta", "0.125")
    text = describe(config, imagenet_vgg10.EXPERIMENT.choose(config))
    assert "beta                 0.125   (demo: 0.0005)" in text
    assert all(f"  {name} " in text for name in flat(config))


def test_identity_leaves_out_what_does_not_touch_the_numbers():
    one = identity(read("--data", "demo"))
    other = identity(read("--data", "demo", "--num-threads", "7", "--max-steps", "3", "--workdir", "else"))
    assert one == other
    assert "beta" in one
    assert "epochs" in one


def test_a_run_goes_on_when_there_is_a_new_option():
    """What a run from before an option existed remembers is what that option's default gives, and no other value."""
    usual = identity(read("--data", "demo"))
    assert not usual.keys() & {"points", "label_smoothing", "warmup_epochs"}
    assert not usual.keys() & {"optimiser", "schedule", "decay_share", "decay_norms", "clip_norm", "ema"}
    assert identity(read("--data", "demo", "--points", "2")) == usual | {"points": 2}


def test_config_json_is_whole(tmp_path):
    store(flat(read("--data", "demo")), tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text()) == flat(read("--data", "demo"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
