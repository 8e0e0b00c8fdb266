"""Oracle: `epjax.value_and_grad`, whose numbers `jax.grad(ep_loss)` must give in every way of asking; float64 jax.grad.

Catches a cotangent that is dropped, a gradient for x or y that is silently zero, a nudged phase that runs where no
gradient is asked for, a second derivative that is silently wrong, and a training loop that needs more than one line.
"""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import epjax
from epjax.data import open_dataset
from experiments import drop_in

CE, SE = epjax.cost.cross_entropy, epjax.cost.squared_error
NET = epjax.models.mlp([7, 6, 4], gain=1.7)
OPTIONS = {"beta": 0.1, "equilibration": epjax.Sweep(2)}


@pytest.fixture
def batch():
    params = NET.init(jax.random.key(0), (5,))
    x = jax.random.normal(jax.random.key(1), (6, 5), jnp.float32)
    return params, x, jnp.arange(6) % 4


@pytest.fixture
def usual_promotion():
    """What optax and flax were written for."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def same(tree, expected, tolerance=0.0):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), tree, expected)


def reference(batch, **options):
    (cost, aux), grads = jax.jit(epjax.value_and_grad(NET, CE, **OPTIONS, **options))(*batch, None)
    return cost, aux.output, grads


def loss_of(**options):
    return epjax.ep_loss(NET, CE, **OPTIONS, **options)


def test_value_and_gradient_are_those_of_value_and_grad(batch):
    cost, output, grads = reference(batch)
    same(jax.jit(jax.value_and_grad(loss_of()))(*batch), (cost, grads))
    got = jax.jit(jax.value_and_grad(loss_of(has_aux=True), has_aux=True))(*batch)
    same(got, ((cost, output), grads))
    assert float(jnp.abs(grads[0]["kernel"]).max()) > 1e-3


def test_every_option_of_value_and_grad_is_taken(batch):
    options = {"scheme": "random", "perturbation": "clamp", "errors": "recomputed", "phases": "sequential"}
    options |= {"beta": jnp.linspace(0.01, 0.2, 6, dtype=jnp.float32), "equilibration": epjax.Async(4)}
    key = jax.random.key(3)
    expected = jax.jit(epjax.value_and_grad(NET, SE, **options))(*batch, key)[1]
    same(jax.jit(jax.grad(epjax.ep_loss(NET, SE, **options)))(*batch, key), expected)


def scanned(loss):
    """The sum over steps of a scan, of which there is one."""
    return lambda p, x, y: jax.lax.scan(lambda c, xy: (c + loss(p, *xy), None), jnp.float32(0.0), (x[None], y[None]))[0]


def mapped(loss):
    """A mean over examples that the caller takes by `vmap`: each is a batch of one."""
    return lambda p, x, y: jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0))(p, x[:, None], y[:, None]))


def of_each(loss):
    """The mean of the gradients of examples."""
    each = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    return lambda p, x, y: jax.tree.map(lambda g: g.mean(axis=0), each(p, x[:, None], y[:, None]))


def beside_another(loss):
    """Three times the loss and a norm, less the norm's gradient."""
    whole = jax.grad(lambda p, *b: 3 * loss(p, *b) + optax.tree.norm(p, squared=True) / 2)
    return lambda p, *b: jax.tree.map(lambda g, p: (g - p) / 3, whole(p, *b), p)


COMPOSITIONS = {
    "jit within": lambda loss: jax.grad(jax.jit(loss)),
    "checkpoint": lambda loss: jax.grad(jax.checkpoint(loss)),
    "vjp": lambda loss: lambda *batch: jax.vjp(loss, *batch)[1](jnp.float32(1.0))[0],
    "scan": lambda loss: jax.grad(scanned(loss)),
    "vmap": lambda loss: jax.grad(mapped(loss)),
    "vmap of grad": of_each,
    "cotangent": beside_another,
}


@pytest.mark.parametrize("how", COMPOSITIONS)
def test_the_gradient_is_the_same_however_it_is_asked_for(batch, how):
    same(jax.jit(COMPOSITIONS[how](loss_of()))(*batch), reference(batch)[2], 2e-6)


def test_gradients_for_the_input_and_for_soft_labels(x64):
    """T_0 of the nudged states tends to dC/dx, and is EP's own at finite beta; dC/dy needs no equilibrium."""
    del x64
    params = jax.tree.map(lambda v: v.astype(jnp.float64), NET.init(jax.random.key(0), (5,)))
    x = jax.random.normal(jax.random.key(1), (6, 5), jnp.float64)
    y = jax.nn.softmax(jax.random.normal(jax.random.key(2), (6, 4), jnp.float64))
    exact = jax.jit(jax.grad(epjax.ep_loss(NET, CE, algorithm="bp"), (0, 1, 2)))(params, x, y)
    three = {"equilibration": epjax.Sweep(3)}
    at = jax.jit(lambda beta: jax.grad(epjax.ep_loss(NET, CE, beta=beta, **three), (0, 1, 2))(params, x, y))
    same(at(jnp.float64(1e-6)), exact, 1e-8)
    of_x, beta = at(jnp.float64(0.5))[1], jnp.float64(0.5)
    assert float(jnp.abs(of_x - exact[1]).max()) > 1e-3 * float(jnp.abs(of_x).max())
    same(of_x, jax.jit(epjax.value_and_grad(NET, CE, beta=beta, argnums=1, **three))(params, x, y, None)[1], 1e-12)


def test_the_twin_is_backpropagation(batch):
    """The options of EP are taken and change nothing; second derivatives are there."""
    (cost, aux), grads = jax.jit(epjax.backprop_value_and_grad(NET, CE))(*batch, None)
    loss = loss_of(algorithm="bp", has_aux=True)
    same(jax.jit(jax.value_and_grad(loss, has_aux=True))(*batch), ((cost, aux.output), grads), 1e-6)
    assert jax.jit(jax.hessian(loss_of(algorithm="bp")))(*batch)[2]["bias"][2]["bias"].any()


def test_without_a_gradient_there_is_no_nudged_phase(batch):
    """The cost alone is one forward pass; with its gradient it is what value_and_grad costs."""

    def flops(f):
        return jax.jit(f).lower(*batch).compile().cost_analysis()["flops"]

    forward = flops(lambda p, x, y: jax.vmap(CE)(jax.vmap(partial(NET.forward, p))(x)[-1], y).mean())
    assert flops(loss_of()) < 1.05 * forward
    whole = flops(lambda *b: epjax.value_and_grad(NET, CE, **OPTIONS)(*b, None)[1])
    assert forward * 2 < flops(jax.grad(loss_of())) < 1.05 * whole


@pytest.mark.usefixtures("usual_promotion")
def test_optax_clips_and_accumulates(batch):
    """MultiSteps over two halves, clipped, is one clipped step on the whole."""
    params, x, y = batch
    clip_and_step = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5))
    assert optax.tree.norm(reference(batch)[2]) > 0.1
    halves = optax.MultiSteps(clip_and_step, 2)
    state, moved = halves.init(params), params

    @jax.jit
    def step(moved, state, x, y):
        updates, state = halves.update(jax.grad(loss_of())(params, x, y), state, moved)
        return optax.apply_updates(moved, updates), state

    for half in (slice(0, 3), slice(3, 6)):
        moved, state = step(moved, state, x[half], y[half])
    updates, _ = clip_and_step.update(reference(batch)[2], clip_and_step.init(params), params)
    same(moved, optax.apply_updates(params, updates), 1e-6)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.05, rtol=1e-5)


@pytest.mark.parametrize("cotangent", [2.0, np.float32(2.0), np.full((), 2.0, np.float32)])
@pytest.mark.parametrize("has_aux", [False, True])
def test_a_cotangent_may_be_a_number(batch, cotangent, has_aux):
    params, x, y = batch
    pull = jax.vjp(lambda p: loss_of(has_aux=has_aux)(p, x, y), params, has_aux=has_aux)[1]
    same(pull(cotangent)[0], jax.tree.map(lambda g: 2 * g, reference(batch)[2]), 1e-6)


SOLVERS = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "polyak": optax.polyak_sgd(),
}


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize("name", SOLVERS)
def test_the_solvers_of_optax_run(batch, name):
    """Value and gradient of the same free state: the value that a search has found is the next step's, to the bit."""
    params, x, y = batch
    solver = SOLVERS[name]

    def value(p):
        return loss_of()(p, x, y)

    from_state = jax.value_and_grad(value) if name == "polyak" else optax.value_and_grad_from_state(value)

    @jax.jit
    def step(params, state):
        cost, grads = from_state(params) if name == "polyak" else from_state(params, state=state)
        again, fresh = jax.value_and_grad(value)(params)
        updates, state = solver.update(grads, state, params, value=cost, grad=grads, value_fn=value)
        return optax.apply_updates(params, updates), state, ((cost, grads), (again, fresh))

    state, costs = solver.init(params), []
    for _ in range(6):
        params, state, (found, fresh) = step(params, state)
        same(found, fresh, 1e-6)
        costs.append(float(found[0]))
    assert costs[-1] < 0.8 * costs[0]


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda loss, p, *b: jax.jvp(lambda p: loss(p, *b)[0], (p,), (p,)), "forward-mode"),
        (lambda loss, p, *b: jax.hessian(lambda p: loss(p, *b)[0])(p), "no second derivatives"),
        (
            lambda loss, p, *b: jax.grad(
                lambda s: optax.tree.norm(jax.grad(loss, has_aux=True)(jax.tree.map(lambda v: v * s, p), *b)[0])
            )(1.0),
            "no second derivatives",
        ),
        (lambda loss, *b: jax.grad(lambda p: loss(p, *b[1:])[1].sum())(b[0]), "has no gradient"),
    ],
)
def test_misuse_is_refused(batch, misuse, message):
    with pytest.raises(TypeError, match=message):
        jax.jit(partial(misuse, loss_of(has_aux=True)))(*batch)


def test_bad_input_is_one_sentence(batch):
    params, x, y = batch
    with pytest.raises(ValueError, match=r"algorithm must be one of ep, bp, exact, got 'EP'"):
        epjax.ep_loss(NET, CE, algorithm="EP")
    with pytest.raises(ValueError, match=r"scheme must be one of .*, got 'centred'"):
        epjax.ep_loss(NET, CE, scheme="centred", algorithm="bp")
    with pytest.raises(
        ValueError, match=r"net must be an epjax.Network, another system, or a flax Sequential, .*, got Dense"
    ):
        epjax.ep_loss(nn.Dense(3), CE)
    with pytest.raises(ValueError, match=r"argnums must be 0 \(the parameters\), 1 \(the input\) or both, got 2"):
        epjax.value_and_grad(NET, CE, argnums=2)
    with pytest.raises(ValueError, match=r"params must be .* of the nn.Sequential \(layers_0, ...\), got keys params"):
        epjax.ep_loss(nn.Sequential([nn.Dense(4)]), CE)({"params": {}}, x, y)
    soft = jax.nn.one_hot(y, 4).at[2].mul(1.5)
    for use in (loss_of(), loss_of(algorithm="bp"), lambda *b: epjax.value_and_grad(NET, CE)(*b, None)):
        with pytest.raises(ValueError, match=r"soft labels must sum to one for cross_entropy, but y\[2\] sums to 1.5"):
            use(params, x, soft)
    epjax.ep_loss(NET, SE)(params, x, soft)  # a target, not a distribution


def public_loop(model, loss_fn, images, labels, steps=120, batch_size=32):
    """A plain flax + optax loop. Nothing in it knows what a gradient is made of; gives the share of right answers."""
    params = model.init(jax.random.key(0), images[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1, momentum=0.9))

    @jax.jit
    def train_step(state, x, y):
        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, x, y)
        return state.apply_gradients(grads=grads), loss, jnp.mean(jnp.argmax(logits, -1) == y, dtype=jnp.float32)

    order = np.random.default_rng(0).permutation(len(images))
    for step in range(steps):
        picks = order[np.arange(step * batch_size, (step + 1) * batch_size) % len(images)]
        state, loss, accuracy = train_step(state, images[picks], labels[picks])
        assert jnp.isfinite(loss)
        assert 0 <= accuracy <= 1
    logits = state.apply_fn({"params": state.params}, images)
    return float(jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32))


def test_a_flax_loop_changes_one_line():
    """A convolutional network of the flax examples' kind, on 400 images: the two losses learn alike."""
    data = open_dataset("demo")
    transform, _ = data.transforms(12)
    some = [data.train[i] for i in range(400)]
    pixels = np.stack([transform(e, np.random.default_rng(0)) for e in some]).astype(np.float32)[..., :1]
    images, labels = jnp.asarray(pixels / 255 - 0.3), jnp.asarray([e.label for e in some], jnp.int32)
    parts = [nn.Conv(8, (3, 3)), nn.relu, lambda x: nn.max_pool(x, (2, 2), (2, 2)), lambda x: x.reshape(len(x), -1)]
    model = nn.Sequential([*parts, nn.Dense(32), nn.relu, nn.Dense(10)])

    def bp_loss(params, x, y):
        logits = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits

    ep_loss = epjax.ep_loss(model, optax.softmax_cross_entropy_with_integer_labels, has_aux=True)
    ep, bp = (public_loop(model, loss, images, labels) for loss in (ep_loss, bp_loss))
    assert bp > 0.65
    assert abs(ep - bp) < 0.06


def test_an_nnx_loop_changes_one_line():
    """Under nnx.grad the model itself is the parameters; a function at the end is a layer without any."""
    rngs, relu = nnx.Rngs(0), nnx.relu
    model = nnx.Sequential(nnx.Linear(5, 7, rngs=rngs), relu, nnx.Linear(7, 4, rngs=rngs), relu, lambda x: 2.0 * x)
    x, y = jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6) % 4
    cost = optax.softmax_cross_entropy_with_integer_labels
    grads = nnx.jit(nnx.grad(epjax.ep_loss(model, cost, beta=1e-3)))(model, x, y)
    exact = nnx.jit(nnx.grad(lambda model, x, y: cost(model(x), y).mean()))(model, x, y)
    same(nnx.to_pure_dict(grads), nnx.to_pure_dict(exact), 2e-3)


@pytest.mark.usefixtures("usual_promotion")
def test_the_command_that_measures_it(tmp_path, capsys):
    """Both losses, every seed, and a file to go with the table."""
    out = tmp_path / "numbers.json"
    argv = ["--data", "demo", "--seeds", "1", "--epochs", "1", "--image-size", "8", "--batch-size", "256"]
    assert drop_in.main([*argv, "--out", str(out)]) == 0
    runs = json.loads(out.read_text())["runs"]
    text = capsys.readouterr().out
    for name in ("backpropagation", "EP"):
        (run,) = runs[name]
        assert 0 < run["test_error"] < 95
        assert f"| {name} | {run['test_error']:.2f}% |" in text
    assert drop_in.main(["--data", str(tmp_path / "none")]) == 1
    assert "do not exist" in capsys.readouterr().err
