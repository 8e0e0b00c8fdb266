"""Inputs that relax toward a class. Oracles: NumPy's solution of the quadratic problem, differences of neighbours.

Catches a prior whose transform is another than its energy, a gradient of the mean instead of that of each input, an
input that leaves its range, a command that draws another class.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import epjax
from epjax import Layer, Network
from epjax.network.activation import identity
from epjax.network.drive import Dense
from epjax.runs import predict
from epjax.runs.config import Gradient
from epjax.runs.imagine import imagine, relax, stiffness
from epjax.runs.imagine_layer import PRECISION, halves, hidden, toward
from epjax.runs.trained import load
from experiments import perceptron
from tests.test_command_run import fails

SHAPE = (5, 4, 3)


def differences(x):
    """|D x|^2 of one input."""
    return sum(float(np.sum(np.diff(x, axis=axis) ** 2)) for axis in range(3))


def matrix():
    """D^T D of flattened inputs, column by column."""
    units = np.eye(np.prod(SHAPE)).reshape(-1, *SHAPE)
    rows = [np.concatenate([np.diff(u, axis=axis).ravel() for axis in range(3)]) for u in units]
    return np.array(rows) @ np.array(rows).T


@pytest.mark.fast
def test_the_prior_has_the_eigenvalues_of_its_matrix():
    found = np.sort(np.asarray(stiffness(SHAPE), np.float64).ravel())
    np.testing.assert_allclose(found, np.sort(np.linalg.eigvalsh(matrix())), atol=1e-5)
    x = np.random.default_rng(0).normal(size=SHAPE)
    assert x.ravel() @ matrix() @ x.ravel() == pytest.approx(differences(x))


@pytest.mark.fast
def test_a_quadratic_cost_is_relaxed_to_its_minimum():
    """C = 1/2 |x - a|^2 of each input: (1 + s D^T D + d) x = a, inside the range."""
    a = np.random.default_rng(0).uniform(0.3, 0.7, (2, *SHAPE))
    s, d = 0.4, 0.1
    expected = np.linalg.solve((1 + d) * np.eye(a[0].size) + s * matrix(), a.reshape(2, -1).T).T
    start = jnp.full((2, *SHAPE), 0.5)
    target = jnp.asarray(a, jnp.float32)
    x, outputs = relax(lambda x: (x.sum(axis=(1, 2, 3)), x - target), start, 300, s, d)
    np.testing.assert_allclose(np.asarray(x).reshape(2, -1), expected, atol=1e-4)
    np.testing.assert_allclose(outputs, np.asarray(x).sum(axis=(1, 2, 3)), rtol=1e-6)
    far, _ = relax(lambda x: (x, x - 10 * target), start, 100, 0.0, 0.0)
    assert float(far.max()) == 1.0


def test_a_hidden_layer_relaxes_to_the_minimum_of_its_energy(x64):
    """Linear layers, squared error: (V^T V + pi) h = V^T (y - c) + pi p; then the input to |W x + b - h|'s minimum."""
    net = Network((Layer(Dense(3), identity), Layer(Dense(3), identity), Layer(Dense(2), identity)))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), (4,)))
    for theta in params[1:]:  # well conditioned
        theta["kernel"] = 0.9 * jnp.linalg.qr(theta["kernel"])[0]
    options = Gradient(cost="squared_error", traversal="sweep", update="pgd", beta=1e-3, precision="float32")
    x, y, key = jax.random.normal(jax.random.key(1), (5, 4), jnp.float64), jnp.array([0, 1, 0, 1, 1]), jax.random.key(2)
    cut = halves(net, params, 1)
    h = hidden(cut, x, y, key, options, 300)
    W, V, U = (np.asarray(theta["kernel"]) for theta in params)
    p, target = np.asarray(x) @ W, np.eye(2)[np.asarray(y)]
    A = V @ U
    expected = np.linalg.solve(A @ A.T + PRECISION * np.eye(3), (target @ A.T + PRECISION * p).T).T
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-6)

    def energy(h):
        return 0.5 * np.sum((h @ A - target) ** 2, axis=1) + 0.5 * PRECISION * np.sum((h - p) ** 2, axis=1)

    falls = np.array([energy(np.asarray(hidden(cut, x, y, key, options, n))) for n in (0, 1, 2, 5, 20)])
    assert np.all(np.diff(falls, axis=0) < 0)
    states, slope = toward(cut, h, x, key, options)(x)
    np.testing.assert_allclose(states, p, rtol=1e-12)
    scale = np.sum((p - np.asarray(h)) ** 2, axis=1, keepdims=True)
    np.testing.assert_allclose(slope, (p - np.asarray(h)) @ W.T / scale, rtol=1e-6)


@pytest.mark.fast
def test_a_cut_is_where_nothing_goes_past_it():
    skipping = Network((Layer(Dense(4)), Layer(Dense(4)), Layer(Dense(4), skips=(1,)), Layer(Dense(2), skips=(2,))))
    params = skipping.init(jax.random.key(0), (3,))
    x = jnp.ones((1, 3), jnp.float32)
    cut = halves(skipping, params, 1)
    parts = jax.vmap(lambda h: cut.above.output(cut.over, h))(cut.states(x))
    np.testing.assert_allclose(parts[0], skipping.output(params, x[0]), rtol=1e-6)
    for k in (0, 2, 3, 4):
        with pytest.raises(ValueError, match=rf"must be a layer that all above see the input through, 1, got {k}"):
            halves(skipping, params, k)
    hard = epjax.activation.hard_tanh
    with pytest.raises(ValueError, match="needs a network with a forward pass, got Hopfield"):
        halves(epjax.systems.Hopfield(Network((Layer(Dense(4), hard), Layer(Dense(2), hard)))), (), 1)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A few steps by backpropagation on the demo."""
    workdir = tmp_path_factory.mktemp("run")
    options = ["--data", "demo", "--algorithm", "bp", "--cost", "cross_entropy", "--hidden", "16", "--epochs", "1"]
    assert perceptron.main(["--workdir", str(workdir), *options, "--learning-rate", "0.1"]) == 0
    return workdir


def test_the_class_is_reached_and_drawn(trained_run, tmp_path, capsys):
    trained, label = load(trained_run), 3
    x, outputs = imagine(trained, label, count=3, steps=100)
    assert x.shape == (3, 28, 28, 3)
    assert 0 <= x.min() < x.max() <= 1
    assert list(outputs.argmax(axis=1)) == [label] * 3
    np.testing.assert_allclose(trained.outputs(255 * x), outputs, rtol=1e-3, atol=1e-3)
    start = imagine(trained, label, count=3, steps=1)[1]
    chance = [jax.nn.log_softmax(jnp.asarray(o))[:, label] for o in (start, outputs)]
    assert np.all(np.asarray(chance[1]) > np.asarray(chance[0]))
    smooth = imagine(trained, label, count=1, steps=100, smoothness=0.1)[0]
    rough = imagine(trained, label, count=1, steps=100, smoothness=0.0)[0]
    assert differences(smooth[0]) < 0.1 * differences(rough[0])
    alone = imagine(trained, label, count=1, steps=100)[0]
    assert differences(alone[0]) == pytest.approx(differences(x[0]), rel=0.5)
    picture = tmp_path / "imagined.png"
    argv = ["--workdir", str(trained_run), "--imagine", trained.classes[label], "--out", str(picture)]
    assert predict.main(argv) == 0
    assert f"8 inputs, of which 8 are seen as {trained.classes[label]}" in " ".join(capsys.readouterr().out.split())
    assert np.asarray(Image.open(picture).convert("RGB")).std() > 20


def test_the_input_follows_a_hidden_layer(trained_run, tmp_path, capsys):
    """The class is reached by way of layer 1, in another picture than without."""
    trained, label = load(trained_run), 3
    x, outputs = imagine(trained, label, count=3, steps=100, layer=1)
    assert 0 <= x.min() < x.max() <= 1
    assert list(outputs.argmax(axis=1)) == [label] * 3
    np.testing.assert_allclose(trained.outputs(255 * x), outputs, rtol=1e-3, atol=1e-3)
    assert np.abs(x - imagine(trained, label, count=3, steps=100)[0]).max() > 0.1
    picture = tmp_path / "imagined.png"
    argv = ["--workdir", str(trained_run), "--imagine", trained.classes[label], "--imagine-layer", "1"]
    assert predict.main([*argv, "--out", str(picture)]) == 0
    assert f"8 inputs, of which 8 are seen as {trained.classes[label]}" in " ".join(capsys.readouterr().out.split())
    assert np.asarray(Image.open(picture).convert("RGB")).std() > 20


def test_what_cannot_be_imagined_is_one_sentence(trained_run, tmp_path, capsys):
    picture = ["--out", str(tmp_path / "x.png")]
    for more, words in (
        (["--imagine", "dress"], "--imagine CLASS and --out PNG go together, without images and without --nudge"),
        (["x.png", "--imagine", "dress", *picture], "without images"),
        (
            ["--imagine", "dres", *picture],
            "imagine must be one of the run's 10 classes, got 'dres'; close ones are dress",
        ),
        (["x.png", "--imagine-layer", "1"], "--imagine-layer 1 says what relaxes: give --imagine CLASS as well"),
        (["--imagine", "dress", "--imagine-layer", "2", *picture], "imagine_layer must be a layer that all above see"),
        (["--imagine", "dress", "--seed", "-1", *picture], "seed must be a finite number of at least 0, got -1"),
    ):
        assert words in fails(predict.main, ["--workdir", str(trained_run), *more], capsys)
    assert not (tmp_path / "x.png").exists()
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        imagine(load(trained_run), 0, count=0)
