"""The commands as a person runs them, on a tiny folder of images, from options to files and exit codes.

Would catch: a run that cannot go on where it was stopped or goes on differently, an option that is parsed
and not used, a mistake of the user that ends in a traceback, a failure that costs what was already done.
"""

import errno
import json
import os
import re
import resource
import shutil
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import epjax
from epjax.models.resnet import resnet
from epjax.runs import predict
from epjax.runs.metrics import diagnoses, evaluations, read_lines, skipped, training
from epjax.runs.progress import Reporter
from epjax.runs.trained import load
from epjax.runs.trainer import Trainer
from epjax.training.step import initial_state
from experiments import imagenet_resnet50, imagenet_vgg10, resnet18, vgg5
from tests.stops import stopped_at

CLASSES = [f"n{number:08}" for number in range(10)]
TRAIN, VAL = 32, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten classes of 32x32 images whose colour tells the class: 32 for training, 12 for validation."""
    path, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            label = number % 10
            pixels = random.integers(0, 60, (32, 32, 3)) + np.array([20 * label, 190 - 20 * label, 10 * label])
            place = path / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:03}.JPEG")
    return path


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs that several runs share are compiled once."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def small(folder, workdir, *more):
    """Four steps an epoch of a very narrow VGG5 by centered EP in one sweep."""
    return [
        *("--workdir", str(workdir), "--dataset", "cifar10", "--data", f"folder:{folder}", "--width", "0.01"),
        *("--batch-size", "8", "--epochs", "2", "--gain", "2", "--traversal", "sweep", *more),
    ]


def values(workdir):
    """metrics.jsonl without what depends on the clock."""
    clock = ("seconds", "images_per_second", "waiting")
    lines = read_lines(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def newest(workdir):
    """The arrays of the newest checkpoint, by path."""
    from orbax.checkpoint import v1 as ocp

    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no sharding is given
        state = ocp.load(workdir / "checkpoints" / str(max(steps)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_run(one, other):
    assert values(one) == values(other)
    a, b = newest(one), newest(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def whole_run(folder, tmp_path_factory):
    """A run from the first to the last of eight steps, with random signs."""
    workdir = tmp_path_factory.mktemp("whole")
    assert vgg5.main(small(folder, workdir, "--scheme", "random", "--log-every", "3")) == 0
    return workdir


def test_what_a_run_leaves_behind(whole_run):
    lines = read_lines(whole_run / "metrics.jsonl")
    assert [line["step"] for line in training(lines)] == [3, 6]
    assert [(line["step"], line["epoch"]) for line in evaluations(lines)] == [(4, 1), (8, 2)]
    for line in evaluations(lines):
        assert line["val_images"] == VAL
        assert 0 <= line["val_top5_error"] <= line["val_top1_error"] <= 100
        assert line["val_cost"] > 0
    for line in training(lines):
        assert {"cost", "top1_error", "images_per_second", "waiting", "learning_rate"} <= line.keys()
    config = json.loads((whole_run / "config.json").read_text())
    assert (config["scheme"], config["beta"], config["classes"], config["train_images"]) == ("random", 0.02, 10, 32)
    assert "processor" in json.loads((whole_run / "machine.json").read_text())
    assert (whole_run / "learning_curve.png").stat().st_size > 10_000
    assert sorted(path.name for path in (whole_run / "checkpoints").iterdir()) == ["4", "8"]


def predicted(workdir, images, capsys, *more):
    """The classes that the command names for each image, likeliest first."""
    assert predict.main([*map(str, images), "--workdir", str(workdir), *more]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    named, classes = iter([path.name for path in images]), []
    for row in rows:
        if row[-1].endswith("%"):
            if len(row) == 4:
                assert row.pop(0) == next(named)
                classes.append([])
            classes[-1].append(row[1])
    return classes


@pytest.mark.parametrize("checkpoint", ["best", "4", "newest"])
def test_predictions_without_the_data_err_as_often_as_the_evaluation_says(folder, whole_run, checkpoint, capsys):
    images = sorted((folder / "val").glob("*/*.JPEG"))
    classes = predicted(whole_run, images, capsys, "--checkpoint", checkpoint)
    wrong = [path.parent.name != names[0] for path, names in zip(images, classes, strict=True)]
    missed = [path.parent.name not in names for path, names in zip(images, classes, strict=True)]
    lines = evaluations(read_lines(whole_run / "metrics.jsonl"))
    best = min(lines, key=lambda line: line["val_top1_error"])
    line = {"best": best, "4": lines[0], "newest": lines[1]}[checkpoint]
    assert 100 * np.mean(wrong) == pytest.approx(line["val_top1_error"])
    assert 100 * np.mean(missed) == pytest.approx(line["val_top5_error"])
    assert all(len(set(names)) == 5 for names in classes)


def test_errors_after_a_nudge(folder, whole_run, tmp_path, capsys):
    picture, (image, *_) = tmp_path / "errors.png", sorted((folder / "val").glob("*/*.JPEG"))
    predicted(whole_run, [image], capsys, "--nudge", CLASSES[3], "--out", str(picture))
    assert np.asarray(Image.open(picture).convert("RGB")).std() > 20
    predicted(whole_run, [image], capsys, "--out", str(tmp_path / "default.png"))
    assert (tmp_path / "default.png").exists()
    trained = load(whole_run)
    x, h_L = trained.normalise(trained.pixels(image)), trained.outputs(trained.pixels(image)[None])[0]
    *_, eps = predict.nudged_errors(trained.network, trained.config.gradient, trained.params, x, np.int32(3))
    beta = trained.config.gradient.beta
    np.testing.assert_allclose(eps, beta * (np.eye(10)[3] - jax.nn.softmax(h_L)), rtol=0.1, atol=0.1 * beta)


@pytest.mark.fast
def test_a_nudge_goes_by_default_where_it_moves_something():
    """To the runner-up where the network is sure, else to the likeliest: logits and outputs near 0 and 1."""
    for logits, expected in (([5.0, 1.0, 2.0], 2), ([1.0, 0.9, 0.8], 0), ([0.0, 9.0, 1.0], 2)):
        assert predict.default_class(np.array(logits), cross_entropy=True) == expected
    for outputs, expected in (([0.9, 0.1, 0.2], 2), ([0.4, 0.3, 0.2], 0), ([0.9, 0.8, 0.1], 0)):
        assert predict.default_class(np.array(outputs), cross_entropy=False) == expected


def test_what_cannot_be_predicted_is_one_sentence(folder, whole_run, tmp_path, capsys):
    image = str(next((folder / "val").glob("*/*.JPEG")))
    (tmp_path / "text.jpg").write_text("no image")
    old = shutil.copytree(whole_run, tmp_path / "old")
    (old / "model.json").unlink()
    hurt = shutil.copytree(whole_run, tmp_path / "hurt")
    for data in (hurt / "checkpoints" / "8" / "state").rglob("d/*"):
        data.write_bytes(b"")
    picture = ["--out", str(tmp_path / "errors.png")]
    for workdir, argv, message in (
        (whole_run, [str(tmp_path / "text.jpg")], "text.jpg cannot be decoded: its 8 bytes are no image"),
        (whole_run, [str(tmp_path / "none.jpg")], "none.jpg cannot be read: No such file"),
        (whole_run, [image, "--nudge", "N0000003", *picture], "got 'N0000003'; close ones are n00000003, "),
        (whole_run, [image, "--nudge", CLASSES[0]], f"--nudge {CLASSES[0]} draws a picture: give --out PNG as well"),
        (whole_run, [image, image, *picture], "draws the answer of one image, got 2 images"),
        (whole_run, [image, "--checkpoint", "5"], "checkpoint must be best, newest or one of the steps 4, 8, got '5'"),
        (tmp_path, [image], "is not the work directory of a run"),
        (old, [image], "give the run's own command again"),
        (hurt, [image, "--checkpoint", "newest"], "the checkpoint"),
    ):
        assert message in fails(predict.main, [*argv, "--workdir", str(workdir)], capsys)
    assert not (tmp_path / "errors.png").exists()


def test_a_finished_run_has_nothing_left_to_do(folder, whole_run, capsys):
    before = values(whole_run)
    assert vgg5.main(small(folder, whole_run, "--scheme", "random", "--log-every", "3")) == 0
    assert values(whole_run) == before
    assert "going on from step 8 of 8" in capsys.readouterr().out


def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(folder, whole_run, tmp_path, monkeypatch, capsys):
    argv = small(folder, tmp_path, "--scheme", "random", "--log-every", "3")
    with stopped_at(monkeypatch, 5):
        assert vgg5.main(argv) == 75
    assert "stopped by SIGTERM after step 6 of 8, saved" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "6").is_dir()
    assert vgg5.main([*argv, "--num-threads", "1"]) == 0
    assert_same_run(whole_run, tmp_path)


def test_more_steps_continue_a_run(folder, whole_run, tmp_path):
    argv = small(folder, tmp_path, "--scheme", "random", "--log-every", "3")
    assert vgg5.main([*argv, "--max-steps", "4"]) == 0
    assert vgg5.main(argv) == 0
    assert_same_run(whole_run, tmp_path)


def test_microbatches_reach_the_step(folder, tmp_path):
    """The program that the trainer makes runs over two slices of each device's share."""
    argv = small(folder, tmp_path, "--algorithm", "bp", "--batch-size", "16", "--microbatches", "2")
    config = vgg5.EXPERIMENT.parse(argv)
    trainer = Trainer(config, vgg5.EXPERIMENT.make_task(config), Console(quiet=True), lambda lines: None)
    params = jax.eval_shape(lambda: trainer.task.network.init(jax.random.key(0), (32, 32, 3)))
    state = jax.eval_shape(lambda params: initial_state(params, trainer.optimiser), params)
    images = jax.ShapeDtypeStruct((16, 32, 32, 3), np.uint8)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((16,), np.int32)}
    assert re.search(r"scan\[[^]]*length=2", str(jax.make_jaxpr(trainer.train_step)(state, batch)), re.DOTALL)


SYNC = ["--traversal", "sync", "--update", "pgd", "--step-size", "0.5", "--iterations", "2"]


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "bp", "--cosine", "step", "--precision", "bfloat16", "--on-bad-image", "skip"],
        ["--scheme", "forward", "--cost", "squared_error", "--precision", "tf32", *SYNC],
        ["--scheme", "backward", "--traversal", "async", "--iterations", "6", "--tolerance", "1e-3"],
        ["--perturbation", "clamp", "--errors", "recomputed", "--phases", "sequential", "--traversal", "async"],
    ],
    ids=["bp", "forward-sync", "backward-async", "clamp-async"],
)
@pytest.mark.filterwarnings("ignore:iterations")  # few iterations are inexact, and the library says so
def test_every_enumeration_runs(folder, tmp_path, options):
    assert vgg5.main(small(folder, tmp_path, "--max-steps", "2", *options)) == 0
    (line,) = evaluations(read_lines(tmp_path / "metrics.jsonl"))
    assert line["step"] == 2
    assert np.isfinite(line["val_cost"])


@pytest.mark.parametrize(
    "options", [["--algorithm", "bp", "--crop", "random"], ["--crop", "resized", "--skip", "--sweeps", "2"]]
)
def test_the_main_command(folder, tmp_path, options, capsys):
    argv = ["--workdir", str(tmp_path), "--data", str(folder), "--width", "0.02", "--image-size", "32"]
    argv += ["--batch-size", "16", "--max-steps", "2", "--gain", "2", "--traversal", "sweep", *options]
    assert imagenet_vgg10.main(argv) == 0
    (line,) = evaluations(read_lines(tmp_path / "metrics.jsonl"))
    assert (line["step"], line["epoch"], line["val_images"]) == (2, 1, VAL)
    shown = capsys.readouterr().out
    assert f"images in {folder}" in shown.replace("\n", "")
    assert "batch_size 16 (not 256)" in " ".join(shown.split())
    assert "top-1 error" in shown


@pytest.fixture
def shallow(monkeypatch):
    """Of every residual network a single block in each of two stages: the same command, compiled in seconds."""
    for name in ("resnet50", "resnet18"):
        blocks = partial(resnet, (1, 1), bottleneck=name == "resnet50")
        monkeypatch.setattr(epjax.models, name, blocks)


def test_resnet50_is_trained_by_the_same_command_and_names_classes(folder, tmp_path, shallow, capsys):
    """Two of the four steps of warm-up; the folder of a run is enough to predict with it."""
    argv = ["--workdir", str(tmp_path), "--data", str(folder), "--width", "0.02", "--image-size", "16"]
    argv += ["--batch-size", "16", "--epochs", "3", "--warmup-epochs", "2", "--max-steps", "2", "--log-every", "1"]
    argv += ["--show-config"]
    assert imagenet_resnet50.main(argv) == 0
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["learning_rate"] for line in training(lines)] == [0.025, 0.05]
    (line,) = evaluations(lines)
    assert (line["step"], line["val_images"]) == (2, VAL)
    assert "label_smoothing      0.1\n" in capsys.readouterr().out
    (classes,) = predicted(tmp_path, [next((folder / "val").glob("*/*.JPEG"))], capsys)
    assert len(classes) == 5


def test_resnet18_is_trained_by_backpropagation_as_by_ep(folder, tmp_path, shallow):
    argv = ["--workdir", str(tmp_path), "--dataset", "cifar10", "--data", f"folder:{folder}", "--width", "0.02"]
    argv += ["--batch-size", "16", "--max-steps", "1", "--algorithm", "bp", "--epochs", "2", "--warmup-epochs", "1"]
    assert resnet18.main(argv) == 0
    (line,) = evaluations(read_lines(tmp_path / "metrics.jsonl"))
    assert line["step"] == 1


def test_the_gradient_is_diagnosed_on_the_way(folder, tmp_path):
    """A line of its own at every second step, in the order of steps."""
    options = ("--max-steps", "3", "--beta", "0.001", "--errors", "carried", "--diagnose-every", "2")
    assert vgg5.main(small(folder, tmp_path, *options)) == 0
    lines = read_lines(tmp_path / "metrics.jsonl")
    (line,) = diagnoses(lines)
    assert (line["step"], line["epoch"], line["verdict"]) == (2, 0.5, "good")
    assert len(line["ep_cosines"]) == 6
    assert [one["step"] for one in lines] == sorted(one["step"] for one in lines)
    assert len(training(lines)) == 3


def fails(main, argv, capsys):
    """The one sentence on the standard error of a command that fails."""
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "0"], "beta must be a finite positive"),
        (["--beta", "nan"], "beta must be a finite positive"),
        (["--iterations", "0", "--traversal", "async"], "iterations must be at least 1, got 0"),
        (["--sweeps", "0"], "sweeps must be at least 1, got 0"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--warmup-epochs", "2"], "warmup_epochs must be at least 0 and less than the 2 epochs, but is 2"),
        (["--label-smoothing", "1"], "label_smoothing must be at least 0 and less than 1, got 1.0"),
        (["--batch-size", "64"], "batch_size must be at most the 32 training images, but is 64"),
        (["--batch-size", "12"], "batch_size must be a multiple of the number of devices"),
        (["--diagnose-every", "0"], "diagnose_every must be at least 1, but is 0"),
        (["--diagnose-every", "2", "--algorithm", "bp"], "diagnose_every needs algorithm 'ep', got 'bp'"),
        (["--microbatches", "0"], "microbatches must be at least 1, but is 0"),
        (["--microbatches", "3"], "batch_size must be a multiple of devices times microbatches, "),
        (["--width", "0"], "width must be a positive"),
        (["--learning-rate", "-0.1"], "learning_rate must be a finite number of at least 0, but is -0.1"),
        (["--final-learning-rate", "nan"], "final_learning_rate must be a finite number of at least 0, but is nan"),
        (["--weight-decay", "-1"], "weight_decay must be a finite number of at least 0, but is -1.0"),
        (["--beta", "1e-30", "--errors", "recomputed"], "beta must be at least 1.2e-10 with errors 'recomputed' in"),
        (
            ["--beta", "1e-44", "--errors", "carried"],
            "beta must be at least 1.2e-38 with errors 'carried' in float32: 1e-44",
        ),
        (["--tolerance", "-1"], "tolerance must be positive"),
        (["--dataset", "mnist", "--data", "idx:nowhere"], "nowhere"),
        (["--dataset", "cifar100"], "--dataset is cifar100, but --data"),
        (["--data", ""], "--data must say where cifar10 lies"),
    ],
)
def test_wrong_options_are_one_sentence_and_touch_nothing(folder, tmp_path, options, message, capsys):
    workdir = tmp_path / "run"
    assert message in fails(vgg5.main, small(folder, workdir, *options), capsys)
    assert not (workdir / "checkpoints").exists() or not list((workdir / "checkpoints").iterdir())


def test_wrong_folders_are_one_sentence(folder, tmp_path, capsys):
    def command(data):
        return ["--workdir", str(tmp_path / "run"), "--data", f"folder:{data}"]

    (tmp_path / "empty").mkdir()
    assert "does not exist" in fails(imagenet_vgg10.main, command(tmp_path / "none"), capsys)
    assert "it is empty" in fails(imagenet_vgg10.main, command(tmp_path / "empty"), capsys)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "val" / "n99999999").mkdir()
    assert "n99999999" in fails(imagenet_vgg10.main, command(copy), capsys)


@pytest.mark.filterwarnings("default:left out")
def test_a_file_of_zero_bytes_is_no_image_and_is_named(folder, tmp_path, capsys):
    copy, workdir = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "run"
    (copy / "val" / CLASSES[1] / "011.JPEG").write_bytes(b"")
    assert vgg5.main(small(copy, workdir, "--max-steps", "4")) == 0
    assert evaluations(read_lines(workdir / "metrics.jsonl"))[0]["val_images"] == VAL - 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: left out, for they have no bytes or are links that lead nowhere, 1 file: ")
    assert line.endswith("011.JPEG")


def test_a_corrupt_image_stops_with_its_name_and_loses_nothing(folder, tmp_path, capsys):
    copy, workdir = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "run"
    bad = copy / "val" / CLASSES[3] / "003.JPEG"
    bad.write_bytes(bad.read_bytes()[:300])
    assert "003.JPEG" in fails(vgg5.main, small(copy, workdir), capsys)
    assert evaluations(read_lines(workdir / "metrics.jsonl")) == []
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["4"]  # the epoch before the evaluation
    assert vgg5.main(small(copy, workdir, "--on-bad-image", "skip", "--max-steps", "5")) == 0
    assert evaluations(read_lines(workdir / "metrics.jsonl"))[0]["val_images"] == VAL - 1
    assert "003.JPEG" in capsys.readouterr().out


def test_another_configuration_is_refused_by_name(folder, whole_run, capsys):
    argv = small(folder, whole_run, "--scheme", "random", "--log-every", "3", "--beta", "0.1", "--seed", "1")
    before = (whole_run / "config.json").read_text()
    message = fails(vgg5.main, argv, capsys)
    assert "beta was 0.02, is 0.1; seed was 0, is 1" in message
    message = fails(
        vgg5.main, small(folder, whole_run, "--scheme", "random", "--log-every", "3", "--width", "0.02"), capsys
    )
    assert "width was 0.01, is 0.02; give the same options, or another --workdir" in message
    assert (whole_run / "config.json").read_text() == before


def test_nan_stops_and_keeps_the_last_good_checkpoint(folder, tmp_path, capsys):
    argv = small(folder, tmp_path, "--algorithm", "bp", "--learning-rate", "1e30")
    message = fails(vgg5.main, argv, capsys)
    assert "became NaN or infinite at step 2 (epoch 0.5); there is no checkpoint yet" in message
    message = fails(vgg5.main, [*argv, "--checkpoint-every", "1"], capsys)
    assert "became NaN or infinite at step 2 (epoch 0.5); the checkpoint of step 1 is kept" in message
    assert all(np.isfinite(leaf).all() for leaf in newest(tmp_path).values())
    message = fails(vgg5.main, [*argv, "--on-nan", "skip", "--max-skipped", "2"], capsys)
    assert "at step 4 (epoch 1), with 3 steps skipped in a row; the checkpoint of step 1 is kept" in message


def test_a_step_that_is_not_finite_is_skipped_counted_and_survives_a_resume(folder, tmp_path, monkeypatch, capsys):
    """One white image makes the gradient of its batch NaN, once an epoch."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    Image.new("RGB", (32, 32), "white").save(copy / "train" / CLASSES[3] / "003.JPEG", quality=100)

    def gradient(options, network, num_classes):
        estimate = epjax.backprop_value_and_grad(network, epjax.cost.cross_entropy)

        def breaks(params, x, y, key):
            measured, grads = estimate(params, x, y, key)
            white = jnp.any(jnp.mean(x, axis=(1, 2, 3)) > 1.9)
            return measured, jax.tree.map(lambda g: jnp.where(white, jnp.nan, g), grads)

        return breaks

    monkeypatch.setattr("epjax.runs.trainer.gradient", gradient)
    argv = small(copy, tmp_path / "run", "--algorithm", "bp", "--log-every", "1", "--on-nan", "skip")
    assert vgg5.main(argv) == 0
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    left_out = [line["step"] for line in skipped(lines)]
    assert {line["skipped"] for line in skipped(lines)} == {"a gradient"}
    assert [(step - 1) // 4 for step in left_out] == [0, 1]
    assert [line["step"] for line in training(lines)] == [step for step in range(1, 9) if step not in left_out]
    shown = capsys.readouterr().out
    assert f"step {left_out[0]} was skipped: a gradient became NaN or infinite" in shown
    assert f"2 steps were skipped, the last at step {left_out[1]}" in shown
    argv[1] = str(tmp_path / "parts")
    assert vgg5.main([*argv, "--max-steps", "4"]) == 0
    assert vgg5.main(argv) == 0
    assert_same_run(tmp_path / "run", tmp_path / "parts")


def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(folder, whole_run, tmp_path, capsys):
    argv = small(folder, tmp_path, "--scheme", "random", "--log-every", "3")
    assert vgg5.main([*argv, "--max-steps", "4"]) == 0
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        code = vgg5.main(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert "could not write the checkpoint of step 8" in capsys.readouterr().err
    assert vgg5.main(argv) == 0
    assert_same_run(whole_run, tmp_path)


def test_a_slow_step_is_told(folder, tmp_path, monkeypatch, capsys):
    """Also that an evaluation, a save and the compilation are none."""
    update = Reporter.update

    def sleep_once(self, status):
        update(self, status)
        time.sleep(1.5 if status.step == 7 else 0.0)

    monkeypatch.setattr(Reporter, "update", sleep_once)
    assert vgg5.main(small(folder, tmp_path, "--scheme", "random", "--log-every", "3")) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "usually" in line]
    assert len(shown) == 1
    assert re.match(r"step 8 took \d+\.\d s, usually 0\.\d+ s", shown[0])


def test_a_warning_is_shown_once(folder, tmp_path, capsys):
    argv = small(folder, tmp_path, "--traversal", "async", "--iterations", "2", "--max-steps", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert vgg5.main(argv) == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: iterations=2 is less")]
    assert len(shown) == 1


def test_a_directory_in_use_is_refused_with_who_uses_it(folder, whole_run, capsys):
    from epjax.runs.workdir import own

    with own(whole_run):
        message = fails(vgg5.main, small(folder, whole_run), capsys)
    assert f"is in use by another run (pid {os.getpid()} on" in message


def test_a_directory_that_cannot_be_made_is_one_sentence(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(vgg5.main, small(folder, tmp_path / "file" / "run"), capsys)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP])
def test_a_directory_without_locks_is_one_sentence(folder, tmp_path, monkeypatch, capsys, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    message = fails(vgg5.main, small(folder, tmp_path / "run"), capsys)
    assert message.endswith("run lies where no file can be locked: give another --workdir")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_keeps_what_it_holds(folder, whole_run, monkeypatch, capsys, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    before, kept = values(whole_run), newest(whole_run)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    message = fails(vgg5.main, small(folder, whole_run, "--scheme", "random", "--log-every", "3"), capsys)
    assert message == f"error: workdir {whole_run} cannot be written: {os.strerror(code)}"
    assert values(whole_run) == before
    assert newest(whole_run).keys() == kept.keys()


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.ENOSPC])
def test_a_save_that_the_disk_refuses_is_one_sentence_and_the_run_can_go_on(
    folder, whole_run, tmp_path, monkeypatch, capsys, code
):
    """The second save of the run: the first is kept, and the same command ends as one that was left alone."""
    from orbax.checkpoint import v1 as ocp

    argv, asked = small(folder, tmp_path, "--scheme", "random", "--log-every", "3"), []
    save = ocp.training.Checkpointer.save_async

    def refuse_the_second(self, step, *given, **named):
        asked.append(step)
        if step == 8:
            raise OSError(code, os.strerror(code))
        return save(self, step, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.training.Checkpointer, "save_async", refuse_the_second)
        message = fails(vgg5.main, argv, capsys)
    assert asked == [4, 8]
    assert message.startswith(f"error: could not write the checkpoint of step 8 to {tmp_path / 'checkpoints'}")
    assert os.strerror(code) in message
    assert vgg5.main(argv) == 0
    assert_same_run(whole_run, tmp_path)
