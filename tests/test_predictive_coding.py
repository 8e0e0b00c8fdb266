"""Oracle: predictive coding's algorithms as their papers have them, in plain loops; `jax.grad`; one another.

Catches a baseline that is another algorithm than its name: a step too many, a wrong sign or order, a state that is not
held, an update with the parameters of the step before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import epjax
from epjax.systems import PCN
from tests.test_relaxation import cosine, flat

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.fast]

IL, EPC = epjax.pc.inference_learning_value_and_grad, epjax.pc.error_optimisation_value_and_grad
WIDTHS = (7, 6, 5, 4)


def case(activation="tanh", gain=1.5):
    net = epjax.models.mlp(list(WIDTHS[1:]), activation=epjax.activation.ACTIVATIONS[activation], gain=gain)
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), WIDTHS[:1])
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    return net, params, jax.random.normal(jax.random.key(1), (3, 7), jnp.float64), jnp.array([1, 3, 0])


class Plain:
    """Three dense layers in NumPy, one example: forward pass, one step of the hidden states, gradient."""

    def __init__(self, params, activation):
        self.W = [np.array(leaf_of(theta, "kernel")) for theta in params]
        self.b = [np.array(leaf_of(theta, "bias")) for theta in params]
        self.phi = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[activation]
        self.slope = {"tanh": lambda a: 1 - np.tanh(a) ** 2, "relu": lambda a: 1.0 * (a > 0)}[activation]
        self.low = -np.inf if activation == "tanh" else 0.0

    def drives(self, x, h):
        below = [x, *h[:-1]]
        return [v @ W + b for v, W, b in zip(below, self.W, self.b, strict=True)]

    def predictions(self, a):
        return [self.phi(a[0]), self.phi(a[1]), a[2]]

    def forward(self, x):
        h1 = self.phi(x @ self.W[0] + self.b[0])
        h2 = self.phi(h1 @ self.W[1] + self.b[1])
        return [h1, h2, h2 @ self.W[2] + self.b[2]]

    def step(self, x, h, alpha):
        a = self.drives(x, h)
        eps = [h_k - f_k for h_k, f_k in zip(h, self.predictions(a), strict=True)]
        T1, T2 = (eps[1] * self.slope(a[1])) @ self.W[1].T, eps[2] @ self.W[2].T
        h1 = np.maximum(h[0] - alpha * (eps[0] - T1), self.low)
        h2 = np.maximum(h[1] - alpha * (eps[1] - T2), self.low)
        return [h1, h2, h[2]]

    def gradient(self, x, h):
        """(dE/dW_k, dE/db_k)."""
        a = self.drives(x, h)
        eps = [h_k - f_k for h_k, f_k in zip(h, self.predictions(a), strict=True)]
        delta = [-eps[0] * self.slope(a[0]), -eps[1] * self.slope(a[1]), -eps[2]]
        below = [x, *h[:-1]]
        return [(np.outer(v, d), d) for v, d in zip(below, delta, strict=True)]


def leaf_of(theta, name):
    (found,) = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(theta) if name in jax.tree_util.keystr(path)]
    return found


def assert_layers(grads, expected, **tolerance):
    for theta, (dW, db) in zip(grads, expected, strict=True):
        np.testing.assert_allclose(leaf_of(theta, "kernel"), dW, **tolerance)
        np.testing.assert_allclose(leaf_of(theta, "bias"), db, **tolerance)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_inference_learning_is_the_textbook_s(activation, steps):
    net, params, x, y = case(activation)
    plain, parts = Plain(params, activation), []
    for i in range(3):
        h = plain.forward(np.array(x[i]))
        h[2] = np.eye(4)[int(y[i])]
        for _ in range(steps):
            h = plain.step(np.array(x[i]), h, 0.1)
        parts.append(plain.gradient(np.array(x[i]), h))
    expected = [tuple(sum(p[k][j] for p in parts) / 3 for j in (0, 1)) for k in range(3)]
    (cost, aux), grads = jax.jit(IL(net, steps=steps, rate=0.1))(params, x, y, None)
    assert_layers(grads, expected, rtol=0, atol=1e-14)
    assert aux.output.shape == (3, 4)
    np.testing.assert_allclose(cost, np.mean(jax.vmap(epjax.cost.squared_error)(aux.output, y)), rtol=1e-12)


def test_inference_learning_is_a_clamp_by_small_steps():
    net, params, x, y = case("relu")
    method = epjax.Sync(iterations=9, update="pgd", step_size=0.2)
    options = {"scheme": "forward", "perturbation": "clamp", "beta": 1.0, "equilibration": method}
    ep = epjax.value_and_grad(net, "squared_error", **options)(params, x, y, None)[1]
    np.testing.assert_array_equal(flat(IL(net, steps=9, rate=0.2)(params, x, y, None)[1]), flat(ep))


def test_z_il_is_backpropagation():
    """Full steps; layer k's weights at the moment when the wave from the output arrives (Song and others, 2020)."""
    net, params, x, y = case("tanh")
    exact = epjax.backprop_value_and_grad(net, "squared_error")(params, x, y, None)[1]
    for k in (1, 2):
        arrived = IL(net, steps=3 - k, rate=1.0)(params, x, y, None)[1]
        np.testing.assert_allclose(flat(arrived[k - 1]), flat(exact[k - 1]), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("cost", ["squared_error", "cross_entropy"])
def test_a_first_small_step_of_error_optimisation_is_backpropagation(cost, activation):
    net, params, x, y = case(activation)
    exact = epjax.backprop_value_and_grad(net, cost)(params, x, y, None)[1]
    grads = jax.jit(EPC(net, cost, steps=1, rate=1e-6))(params, x, y, None)[1]
    for k, (g, b) in enumerate(zip(grads, exact, strict=True), start=1):
        scale = 1.0 if k == len(net) else 1e-6
        np.testing.assert_allclose(flat(g) / scale, flat(b), rtol=0, atol=2e-5 * np.linalg.norm(flat(b)))


def test_error_optimisation_is_its_definition():
    """A gradient step of F(eps) by hand, at a rate that is not small."""
    net, params, x, y = case("tanh")

    def F(eps, params, x, y):
        h = x
        for k in range(1, 4):
            h = net.predict(params[k - 1], k, h) + (eps[k - 1] if k < 3 else 0.0)
        return 0.5 * sum(jnp.sum(e * e) for e in eps) + epjax.cost.cross_entropy(h, y)

    def local(params, x, y):
        eps = (jnp.zeros(6), jnp.zeros(5))
        for _ in range(4):
            eps = jax.tree.map(lambda e, g: e - 0.3 * g, eps, jax.grad(F)(eps, params, x, y))
        h = [x]
        for k in (1, 2):
            h.append(net.predict(params[k - 1], k, h[-1]) + eps[k - 1])

        def energy(params):
            f = [net.predict(params[k], k + 1, h[k]) for k in range(3)]
            held = sum(0.5 * jnp.sum((h[k + 1] - f[k]) ** 2) for k in range(2))
            return held + epjax.cost.cross_entropy(f[2], y)

        return jax.grad(energy)(params)

    expected = jax.tree.map(lambda g: g.mean(0), jax.vmap(local, in_axes=(None, 0, 0))(params, x, y))
    grads = EPC(net, "cross_entropy", steps=4, rate=0.3)(params, x, y, None)[1]
    np.testing.assert_allclose(flat(grads), flat(expected), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("precisions", [None, (0.5, 2.0, 1.0)])
def test_error_optimisation_comes_to_rest_where_inference_learning_does(precisions):
    net, params, x, y = case("tanh")
    net = net if precisions is None else PCN(net, precisions)
    (_, aux), by_errors = jax.jit(EPC(net, steps=2000, rate=0.1))(params, x, y, None)
    by_states = jax.jit(IL(net, steps=3000, rate=0.1))(params, x, y, None)[1]
    assert np.max(aux.solution.residual) < 1e-9
    np.testing.assert_allclose(flat(by_errors), flat(by_states), rtol=0, atol=1e-10)


def test_error_optimisation_is_faster_than_inference_learning():
    """What it is for: after 5 steps of .1 the direction of the equilibrium's gradient is nearer."""
    net, params, x, y = case("tanh")
    rest = flat(jax.jit(IL(net, steps=3000))(params, x, y, None)[1])
    near = {f: cosine(flat(f(net, steps=5, rate=0.1)(params, x, y, None)[1]), rest) for f in (IL, EPC)}
    assert near[EPC] > near[IL]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_incremental_learning_is_a_plain_loop(activation):
    net, params, x, y = case(activation)
    optimiser = optax.sgd(0.05, momentum=0.9)
    update = jax.jit(epjax.pc.incremental_update(net, optimiser, steps=4, rate=0.2))
    (cost, aux), new, _ = update(params, optimiser.init(params), x, y)
    plain = Plain(params, activation)
    h = [plain.forward(np.array(x[i])) for i in range(3)]
    np.testing.assert_allclose(aux.output, [states[2] for states in h], rtol=1e-12)
    for i in range(3):
        h[i][2] = np.eye(4)[int(y[i])]
    momentum = [(0.0, 0.0)] * 3
    for _ in range(4):
        h = [plain.step(np.array(x[i]), h[i], 0.2) for i in range(3)]
        parts = [plain.gradient(np.array(x[i]), h[i]) for i in range(3)]
        for k in range(3):
            grad = [sum(p[k][j] for p in parts) / 3 for j in (0, 1)]
            momentum[k] = tuple(0.9 * m + g for m, g in zip(momentum[k], grad, strict=True))
            plain.W[k] = plain.W[k] - 0.05 * momentum[k][0]
            plain.b[k] = plain.b[k] - 0.05 * momentum[k][1]
    assert_layers(new, list(zip(plain.W, plain.b, strict=True)), rtol=1e-10, atol=1e-12)
    assert np.isfinite(cost)


def test_gradients_for_the_input_are_had_too():
    net, params, x, y = case("tanh")
    for make in (IL, EPC):
        grads = make(net, steps=3, argnums=(0, 1))(params, x, y, None)[1]
        assert grads[1].shape == x.shape


HOPFIELD = epjax.systems.Hopfield(epjax.Network((epjax.Layer(epjax.drive.Dense(3), "identity"),)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda net: IL(net, "cross_entropy"), "inference learning clamps .* 'squared_error', got 'cross_entropy'"),
        (
            lambda net: epjax.pc.incremental_update(net, optax.sgd(0.1), "cross_entropy"),
            "incremental predictive coding clamps .* 'squared_error', got 'cross_entropy'",
        ),
        (lambda net: IL(net, steps=0), "steps of inference must be at least 1, got 0"),
        (lambda net: EPC(net, rate=0.0), r"rate of inference must lie in \(0, 1\], got 0.0"),
        (lambda net: EPC(net, rate=float("nan")), r"rate of inference must lie in \(0, 1\], got nan"),
        (lambda net: EPC(HOPFIELD), "error optimisation needs a predictive coding network, got Hopfield"),
        (lambda net: IL("net"), "net must be an epjax.Network or another system, got a str"),
    ],
)
def test_what_does_not_fit_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(case()[0])
