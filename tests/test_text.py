"""A text from a file to a language model and back. Oracles: windows cut by hand, NumPy, the forward pass itself, a run
that was interrupted against one that was not.

Catches a target that is not the next token, a validation part that training sees, a window that depends on where a run
was started, bits that are not those of the cost, a sample that sees less or more than the network's context.
"""

import gzip
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epjax.data import Vocabulary, Window, open_dataset, open_text, train_batches
from epjax.runs import cli, predict, sample, trainer
from epjax.runs.alarm import guessing
from epjax.runs.compare import headline
from epjax.runs.metrics import best, evaluations, read_lines, training
from epjax.runs.records import read
from epjax.runs.seeds import grouped
from epjax.runs.task import Task
from epjax.runs.trained import load
from epjax.training.checkpoint import Checkpoints, saved_steps
from epjax.training.evaluation import rank_of_label
from experiments import char_lm
from tests.stops import stopped_at
from tests.test_command_run import assert_same_run, fails

ALPHABET = "abcdefgh\né"
RNG = np.random.default_rng(0)
WORDS = "".join(RNG.choice(list(ALPHABET), 1000))
CONTEXT = 8


@pytest.fixture(scope="module", autouse=True)
def usual_promotion():
    """Flax's attention mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_bytes(WORDS.encode())
    return file


def small(path, workdir, *more):
    """Two epochs of seven steps of a tiny transformer."""
    sizes = ("--context", str(CONTEXT), "--features", "8", "--depth", "1", "--heads", "1", "--batch-size", "16")
    return ["--workdir", str(workdir), "--data", f"text:{path}", *sizes, "--log-every", "3", *more]


def windows(batch):
    return [tuple(row) for row in np.concatenate([batch["image"], batch["label"][:, -1:]], axis=1).tolist()]


@pytest.mark.fast
def test_windows_are_those_of_the_text(path):
    data = open_text(f"text:{path}", CONTEXT)
    assert data.classes == tuple(sorted(set(WORDS)))
    codes = [data.classes.index(character) for character in WORDS]
    assert (len(data.train), len(data.val), data.token, data.examples) == (111, 12, "character", "windows")
    cut = Window(CONTEXT)
    for i, start in ((0, 900), (11, 988)):
        x, y = cut(data.val[i], np.random.default_rng(0))
        assert x.tolist() == codes[start : start + CONTEXT]
        assert y.tolist() == codes[start + 1 : start + 1 + CONTEXT]
    source = train_batches(data.train, Window(CONTEXT, moved=True), batch_size=16, seed=3)
    seen, whole = [windows(next(source)) for _ in range(6)], {tuple(codes[i : i + 9]) for i in range(892)}
    assert all(set(batch) <= whole for batch in seen)
    assert set().union(*seen) - {tuple(codes[i : i + 9]) for i in range(0, 892, 8)}
    source.close()


@pytest.mark.fast
def test_the_order_does_not_depend_on_where_a_run_starts(path):
    """Batches of step 9 on, which is the second epoch, from the first step and from there; passages are picklable."""
    data, cut = open_text(str(path), CONTEXT), Window(CONTEXT, moved=True)
    first = train_batches(data.train, cut, batch_size=16, seed=3, num_threads=0)
    later = train_batches(pickle.loads(pickle.dumps(data.train)), cut, batch_size=16, seed=3, start_step=9)
    skipped = [next(first) for _ in range(9)]
    for _ in range(3):
        one, other = next(first), next(later)
        assert windows(one) == windows(other)
        assert (one["image"].dtype, one["label"].dtype) == (np.int32, np.int32)
        assert windows(one) != windows(skipped[0])
    first.close()
    later.close()


@pytest.mark.fast
def test_packed_and_bytes(path, tmp_path):
    packed = tmp_path / "words.txt.gz"
    packed.write_bytes(gzip.compress(WORDS.encode()))
    plain, same, raw = open_text(str(path), 8), open_text(str(packed), 8), open_text(str(packed), 8, "bytes")
    np.testing.assert_array_equal(plain.train[3].image, same.train[3].image)
    assert bytes(raw.train[3].image) == WORDS.encode()[24:40]
    assert (len(raw.classes), raw.token) == (256, "byte")
    for vocabulary in (Vocabulary("bytes", raw.classes), Vocabulary("characters", plain.classes)):
        assert vocabulary.decode(vocabulary.encode(WORDS)) == WORDS
    assert Vocabulary("bytes", raw.classes).decode(np.array([0xC3])) == "\ufffd"


@pytest.mark.fast
def test_the_demo_and_what_it_is_called():
    data = open_text("demo", 64)
    assert (len(data.train), len(data.val), len(data.classes)) == (1123, 124, 61)
    assert "Coriolanus" in data.origin


@pytest.mark.fast
@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "is empty"),
        (b"ab\xff\xfe" * 100, {}, "must be UTF-8, but byte 2 is 0xff: --tokens bytes takes any file"),
        (b"abcdefgh" * 4, {}, "must have some 90 characters for windows of 8: .*, but has 32"),
        (b"abcdefgh" * 40, {"context": 0}, "context must be at least 1, got 0"),
        (None, {}, "is not a file"),
    ],
)
def test_what_is_no_text(content, options, words, tmp_path):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_text(str(file), **{"context": 8, **options})


@pytest.mark.fast
def test_the_least_text_is_enough_and_one_less_is_not(tmp_path):
    for context in (1, 7, 8, 64):
        least = max(-(-20 * context // 9), 10 * (context + 1))
        (tmp_path / "least").write_text("ab" * least)
        assert len(open_text(str(tmp_path / "least"), context).val)
        (tmp_path / "less").write_text("a" * (context * 10))
        with pytest.raises(ValueError, match=f"some {least} characters"):
            open_text(str(tmp_path / "less"), context)


@pytest.mark.fast
def test_a_broken_archive_and_a_text_in_the_place_of_images(tmp_path):
    (tmp_path / "broken.gz").write_bytes(gzip.compress(WORDS.encode())[:50])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        open_text(str(tmp_path / "broken.gz"), 8)
    with pytest.raises(ValueError, match="the data must be images here, got text:words: epjax train char_lm"):
        open_dataset("text:words")


@pytest.mark.fast
def test_ranks_at_every_position():
    output, label = RNG.normal(size=(3, 5, 7)).astype(np.float32), RNG.integers(0, 7, (3, 5)).astype(np.int32)
    output[1, 2, 3] = np.nan
    places = np.argsort(-output, axis=-1, kind="stable")
    expected = np.argmax(places == label[..., None], axis=-1)
    expected[1, 2] = 7
    np.testing.assert_array_equal(rank_of_label(jnp.asarray(output), jnp.asarray(label)), expected)
    assert guessing("squared_error", 4, 6) == 6 * guessing("squared_error", 4)
    assert guessing("cross_entropy", 4, 6) == guessing("cross_entropy", 4)


@pytest.fixture(scope="module")
def whole_run(path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert char_lm.main(small(path, workdir)) == 0
    return workdir


def test_bits_are_those_of_the_forward_pass(whole_run, path, capsys):
    lines = read_lines(whole_run / "metrics.jsonl")
    for line in training(lines):
        assert line["bits"] == pytest.approx(line["cost"] / np.log(2))
    last = evaluations(lines)[-1]
    trained, data = load(whole_run, "newest"), open_text(str(path), CONTEXT)
    costs, wrong = [], []
    for i in range(len(data.val)):
        x, y = trained.transform(data.val[i], np.random.default_rng(0))
        told = np.asarray(jax.nn.log_softmax(trained.network.forward(trained.params, x)[-1]))
        costs.append(-np.mean(told[np.arange(CONTEXT), y]) / np.log(2))
        wrong.append(np.mean(np.argmax(told, axis=-1) != y))
    assert last["val_bits"] == pytest.approx(np.mean(costs), rel=1e-5)
    assert last["val_top1_error"] == pytest.approx(100 * np.mean(wrong), rel=1e-5)
    assert last["val_images"] == len(data.val)
    assert (whole_run / "learning_curve.png").stat().st_size > 10_000


def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(whole_run, path, tmp_path, monkeypatch, capsys):
    with stopped_at(monkeypatch, 4):
        assert char_lm.main(small(path, tmp_path)) == 75
    assert "stopped by SIGTERM after step 5 of 12, saved" in capsys.readouterr().out
    assert char_lm.main(small(path, tmp_path, "--num-threads", "1")) == 0
    assert "bits per character" in capsys.readouterr().out
    assert_same_run(whole_run, tmp_path)


def test_a_run_is_held_to_its_text(whole_run, path, tmp_path, monkeypatch, capsys):
    """Another text of the same size and characters is refused; the same one packed, or a run from before, goes on."""
    whole_run = shutil.copytree(whole_run, tmp_path / "whole")
    lines = (whole_run / "config.json").read_text()
    digest = open_text(str(path), CONTEXT).sha256
    assert json.loads(lines)["text_sha256"] == digest
    other, packed = tmp_path / "words.txt", tmp_path / "words.txt.gz"
    other.write_text(WORDS[:500] + WORDS[:499:-1])
    packed.write_bytes(gzip.compress(WORDS.encode()))
    message = fails(char_lm.main, small(other, whole_run), capsys)
    assert f"another configuration: text_sha256 was {digest}, is " in message
    assert (whole_run / "config.json").read_text() == lines
    assert char_lm.main(small(packed, whole_run)) == 0
    with monkeypatch.context() as before:
        before.setattr(Task, "content", lambda task: {})
        assert char_lm.main(small(path, tmp_path / "before", "--max-steps", "3")) == 0
    assert "text_sha256" not in json.loads((tmp_path / "before" / "config.json").read_text())
    assert char_lm.main(small(path, tmp_path / "before")) == 0
    assert "text_sha256 was" in fails(char_lm.main, small(other, tmp_path / "before"), capsys)


def evaluations_of(monkeypatch):
    """The cost falls while the errors rise, whatever is learnt."""
    count = iter(range(1, 100))

    def evaluate(*_):
        k = next(count)
        return {"val_top1_error": 10.0 * k, "val_top5_error": 5.0 * k, "val_cost": 3.0 - 0.5 * k, "val_images": 12}

    monkeypatch.setattr(trainer, "evaluate", evaluate)


def test_the_best_checkpoint_of_a_text_has_the_fewest_bits(path, tmp_path, monkeypatch, capsys):
    evaluations_of(monkeypatch)
    assert char_lm.main(small(path, tmp_path, "--keep", "1")) == 0
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert best(lines)["val_bits"] == pytest.approx(2 / np.log(2))
    assert [line["step"] for line in evaluations(lines)] == [6, 12]
    assert saved_steps(tmp_path / "checkpoints") == [12]
    assert load(tmp_path).step == 12
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(line[:4] == ["│", "best", "│", "2"] for line in table)


def test_a_run_from_before_keeps_its_best_by_errors(path, tmp_path, monkeypatch):
    """The measure of all its checkpoints is one."""
    evaluations_of(monkeypatch)
    save = Checkpoints.save

    def as_before(self, step, state, extra=None, metric=None):
        extra = {name: value for name, value in extra.items() if name != "best_by"}
        save(self, step, state, extra, None if metric is None else 10.0)

    with monkeypatch.context() as before:
        before.setattr(Checkpoints, "save", as_before)
        assert char_lm.main(small(path, tmp_path, "--max-steps", "6", "--keep", "1")) == 0
    assert char_lm.main(small(path, tmp_path, "--keep", "1")) == 0
    assert saved_steps(tmp_path / "checkpoints") == [6, 12]


def told(argv, capsys):
    """What the command prints, on both streams."""
    assert sample.main(argv) == 0
    return capsys.readouterr()


def test_a_text_is_gone_on_with(whole_run, capsys):
    """At temperature 0 by the likeliest token, of the last eight; otherwise by the seed."""
    trained = load(whole_run)
    names, forward = trained.classes, jax.jit(trained.network.forward)
    text = "abc"
    for _ in range(9):
        x = np.array([names.index(c) for c in text[-CONTEXT:]], np.int32)
        text += names[int(np.argmax(forward(trained.params, x)[-1][-1]))]
    argv = ["--workdir", str(whole_run), "--length", "9", "--prompt"]
    assert told([*argv, "abc", "--temperature", "0"], capsys).out == text + "\n"
    texts = [told([*argv, "abc", "--seed", seed, "--temperature", "3"], capsys).out for seed in "778"]
    assert texts[0] == texts[1] != texts[2]
    assert all(len(text) == 13 for text in texts)
    long = told([*argv, "hhhh" + "abcdefgh", "--temperature", "0"], capsys)
    short = told([*argv, "abcdefgh", "--temperature", "0"], capsys)
    assert long.out == "hhhh" + short.out
    assert "the prompt has 12 tokens, of which the network sees the last 8" in long.err
    assert short.err == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompt", "abcz"], "prompt must be made of the 10 characters that the network knows, got 'z'"),
        (["--prompt", ""], "prompt must hold at least one character, got none"),
        (["--prompt", "a", "--length", "0"], "length must be at least 1, got 0"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be a finite number of at least 0, got -1"),
        (["--prompt", "a", "--seed", "-1"], "seed must be at least 0, got -1"),
        (["--prompt", "a", "--checkpoint", "5"], "checkpoint must be best, newest or one of the steps"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_sentence(whole_run, more, words, capsys):
    assert words in fails(sample.main, ["--workdir", str(whole_run), *more], capsys)


def test_what_cannot_be_trained_is_one_sentence(whole_run, path, tmp_path, capsys):
    for workdir, more, words in (
        (tmp_path, ["--label-smoothing", "0.1"], "label_smoothing must be 0 for a text, got 0.1"),
        (tmp_path, ["--batch-size", "200"], "batch_size must be at most the 111 training windows, but is 200"),
        (tmp_path, ["--context", "128"], "must have some 1290 characters for windows of 128"),
        (whole_run, ["--context", "16"], "context"),
    ):
        assert words in fails(char_lm.main, small(path, workdir, *more), capsys)


def test_a_run_is_read_by_the_other_commands(whole_run, path, tmp_path, capsys):
    assert cli.main(["diagnose", "--workdir", str(whole_run), "--images", "4"]) == 0
    assert "4 training windows" in capsys.readouterr().out
    assert cli.main(["report", str(whole_run), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "10 kinds of characters" in page
    assert "words.txt, 111 windows of 8 characters" in page
    assert "Validation bits per token" in page
    assert json.loads((whole_run / "model.json").read_text())["token"] == "character"
    assert "epjax sample goes on with one" in fails(predict.main, ["x.png", "--workdir", str(whole_run)], capsys)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """EP and backpropagation on a text that is easy to learn."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "text").write_text("abcdefgh\n" * 120)
    for name in ("ep", "bp"):
        more = ("--algorithm", name, "--epochs", "6", "--learning-rate", "0.03", "--features", "16", "--log-to", "csv")
        assert char_lm.main(small(folder / "text", folder / name, *more)) == 0
    return folder


def test_backpropagation_is_the_other_half_of_the_pair(pair, capsys):
    """Both learn the text, alike; pictures, pages and tables tell bits."""
    ends = {name: evaluations(read_lines(pair / name / "metrics.jsonl"))[-1]["val_bits"] for name in ("ep", "bp")}
    assert max(ends.values()) < 0.5 < np.log2(9)
    assert ends["ep"] == pytest.approx(ends["bp"], rel=0.02)
    argv = [str(pair / "ep"), str(pair / "bp"), "--out"]
    capsys.readouterr()
    assert cli.main(["compare", *argv, str(pair / "pair.png")]) == 0
    head, _, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "bits per token" in head
    assert [f"{end:.3f}" in row for end, row in zip(ends.values(), rows, strict=True)] == [True, True]
    assert headline(grouped([read(pair / name) for name in ends])).startswith("Last bits per token: EP")
    assert cli.main(["report", *argv, str(pair / "pair.html")]) == 0
    page = (pair / "pair.html").read_text()
    assert "best bits per token" in page
    assert "best top-1 error" not in page
    assert "top-1 error" in page


@pytest.mark.fast
def test_the_command_goes_on_with_what_it_learnt(path, tmp_path, capsys):
    """Bytes, by both names of the commands."""
    argv = small(path, tmp_path, "--tokens", "bytes", "--algorithm", "bp", "--max-steps", "1")
    assert cli.main(["train", "char_lm", *argv]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert cli.main(["sample", "--workdir", str(tmp_path), "--prompt", "Ω", "--length", "5"]) == 0
    assert capsys.readouterr().out.startswith("Ω")
