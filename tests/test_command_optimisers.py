"""The commands with another optimiser, schedule, a clip and an average of the parameters, on a tiny folder of images.

Would catch: an average that a resumed run starts anew, that is saved and not evaluated, or evaluated and not predicted
with, an option that does not reach the step, a refusal after the first step.
"""

import jax
import numpy as np
import pytest
from test_command_run import (  # noqa: F401
    CLASSES,
    assert_same_run,
    compiled_once,
    fails,
    folder,
    newest,
    predicted,
    small,
)

from epjax.runs.metrics import evaluations, read_lines, training
from epjax.runs.trained import load
from experiments import vgg5
from tests.stops import stopped_at

ASKED = ["--optimiser", "adamw", "--learning-rate", "3e-3", "--ema", "0.9", "--clip-norm", "1", "--log-every", "3"]


@pytest.fixture(autouse=True)
def usual_promotion():
    """What optax was written for: its Adam raises a float to an int."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def averaging_run(folder, tmp_path_factory):  # noqa: F811
    """All eight steps."""
    workdir = tmp_path_factory.mktemp("averaging")
    with jax.numpy_dtype_promotion("standard"):
        assert vgg5.main(small(folder, workdir, *ASKED)) == 0
    return workdir


def test_stopped_and_continued_equals_uninterrupted(folder, averaging_run, tmp_path, monkeypatch):  # noqa: F811
    argv = small(folder, tmp_path, *ASKED)
    with stopped_at(monkeypatch, 5):
        assert vgg5.main(argv) == 75
    assert (tmp_path / "checkpoints" / "6").is_dir()
    assert vgg5.main(argv) == 0
    assert_same_run(averaging_run, tmp_path)


def test_the_average_is_saved_evaluated_and_predicts(folder, averaging_run, capsys):  # noqa: F811
    saved, trained = newest(averaging_run), load(averaging_run, "newest")
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params):
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_equal(leaf, saved[f"['opt_state']['average']{name}"])
        assert not np.array_equal(leaf, saved[f"['params']{name}"])
    images = sorted((folder / "val").glob("*/*.JPEG"))
    pixels = np.stack([trained.pixels(image) for image in images])
    label = np.array([CLASSES.index(image.parent.name) for image in images])
    cost = -jax.nn.log_softmax(trained.outputs(pixels))[np.arange(len(images)), label].mean()
    line = evaluations(read_lines(averaging_run / "metrics.jsonl"))[-1]
    assert line["val_cost"] == pytest.approx(float(cost), rel=1e-4)
    classes = predicted(averaging_run, images, capsys, "--checkpoint", "newest")
    wrong = [image.parent.name != names[0] for image, names in zip(images, classes, strict=True)]
    assert 100 * np.mean(wrong) == pytest.approx(line["val_top1_error"])


def test_a_run_with_an_average_does_not_go_on_without_it(folder, averaging_run, capsys):  # noqa: F811
    without = [word for word in ASKED if word not in ("--ema", "0.9")]
    assert "ema was 0.9, is not set" in fails(vgg5.main, small(folder, averaging_run, *without), capsys)


def test_muon_by_a_warm_up_a_stable_rate_and_a_decay(folder, tmp_path):  # noqa: F811
    """One epoch of four steps up, one in which the last half falls, at every step."""
    asked = ["--optimiser", "muon", "--schedule", "warmup-stable-decay", "--warmup-epochs", "1", "--decay-share", "0.5"]
    more = ["--learning-rate", "0.02", "--final-learning-rate", "0.01", "--cosine", "step", "--no-decay-norms"]
    assert vgg5.main(small(folder, tmp_path, *asked, *more, "--log-every", "1")) == 0
    rates = [line["learning_rate"] for line in training(read_lines(tmp_path / "metrics.jsonl"))]
    np.testing.assert_allclose(rates, [0.005, 0.01, 0.015, 0.02, 0.02, 0.02, 0.02, 0.015], rtol=1e-5)
    orthogonalised = [name for name in newest(tmp_path) if "muon" in name and "['mu']" in name]
    assert [name.endswith("[5]['kernel']") for name in orthogonalised] == [True], orthogonalised


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip-norm", "0"], "clip_norm must be a finite number greater than 0, got 0.0"),
        (["--clip-norm", "nan"], "clip_norm must be a finite number greater than 0, got nan"),
        (["--ema", "1"], "ema must be greater than 0 and less than 1, got 1.0"),
        (["--ema", "0"], "ema must be greater than 0 and less than 1, got 0.0"),
        (["--decay-share", "0.1"], "decay_share is for schedule warmup-stable-decay, got 0.1 with schedule 'cosine'"),
        (
            ["--schedule", "warmup-stable-decay", "--decay-share", "1.5"],
            "decay_share must be greater than 0 and at most 1, got 1.5",
        ),
        (["--optimiser", "lion", "--momentum", "1"], "momentum must be at least 0 and less than 1, got 1.0"),
        (
            ["--optimiser", "adam", "--layer-rates", "1", "2"],
            "layer_rates must hold a number for each of 6 layers, got 2",
        ),
    ],
)
def test_wrong_options_are_one_sentence_and_touch_nothing(folder, tmp_path, options, message, capsys):  # noqa: F811
    workdir = tmp_path / "run"
    assert message in fails(vgg5.main, small(folder, workdir, *options), capsys)
    assert not (workdir / "checkpoints").exists()


@pytest.mark.fast
@pytest.mark.parametrize("options", [["--optimiser", "rmsprop"], ["--schedule", "step"]])
def test_an_unknown_name_ends_with_code_2_and_the_names_there_are(folder, tmp_path, options, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as exit:
        vgg5.main(small(folder, tmp_path, *options))
    assert exit.value.code == 2
    told = capsys.readouterr().err
    for word in options + (["sgd", "muon"] if options[0] == "--optimiser" else ["cosine", "warmup-stable-decay"]):
        assert word in told
