"""Oracle: paper and pencil, and the phases that share nothing. What the nudged phases of a sweep share.

Catches a product that is taken at the free state, a mean with the wrong coefficients, a gradient that a module's
products lose, gates or errors that are shared as well, sharing where the numbers of before were promised.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax.network.activation import identity, relu, tanh
from epjax.network.drive import Conv, Dense, max_pool
from epjax.network.products import at_mean_states

CE = epjax.cost.cross_entropy
OWN = {"signals": "own", "products": "own"}
BOTH = {"signals": "shared", "products": "shared"}
pytestmark = pytest.mark.usefixtures("x64")


def case(net, shape, batch=3):
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(jax.random.key(0), shape))
    return net, params, jax.random.normal(jax.random.key(1), (batch, *shape), jnp.float64), jnp.arange(batch) % 4


def mlp(activation=tanh, sizes=(7, 6, 4)):
    return case(epjax.models.mlp(list(sizes), activation=activation, gain=1.7), (5,))


def conv_net():
    """Pooling, a skip, a flax block of two products, a flax layer, a dense output."""
    block = nn.Sequential([nn.Conv(4, (3, 3)), jnp.tanh, nn.Conv(4, (3, 3))])
    layers = (
        epjax.Layer(Conv(4, pool=True, gain=2.0), relu),
        epjax.Layer(block, identity),
        epjax.Layer(Conv(4, pool=True, gain=2.0), relu, skips=(1,)),
        epjax.Layer(nn.Conv(3, (3, 3)), relu),
        epjax.Layer(Dense(4, gain=2.0), identity),
    )
    return case(epjax.Network(layers), (8, 8, 2))


def gradient(problem, sharing, beta=0.05, sweeps=1, **options):
    """(gradient, solution); `sharing` are options of the sweep."""
    net, params, x, y = problem
    method = epjax.Sweep(sweeps, update="pgd", **sharing)
    ep = jax.jit(epjax.value_and_grad(net, CE, beta=beta, equilibration=method, keep_states=True, **options))
    (_, aux), grads = ep(params, x, y, jax.random.key(3))
    return grads, aux.solution


def distance(one, two):
    a, b = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (one, two))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("points", [1, 2])
@pytest.mark.parametrize("activation", [relu, tanh])
def test_a_product_by_hand(activation, points):
    """Kernels by the mean of what is below and the difference of gated errors, biases by each phase's own."""
    problem = net, params, x, _ = mlp(activation)
    beta = 0.3
    grads, solution = gradient(problem, {"signals": "own"}, beta, points=points)
    s = np.array({1: [1, -1], 2: [1, 2, -1, -2]}[points])
    c = np.array({1: [0.5, 0.5], 2: [2 / 3, -1 / 6, 2 / 3, -1 / 6]}[points])
    below = [np.repeat(x[:, None], len(s), axis=1), *map(np.array, solution.h)]
    for k, (h, eps, theta) in enumerate(zip(below, solution.errors, params, strict=False), start=1):
        a = np.array(h) @ np.array(theta["kernel"]) + np.array(theta["bias"])
        gate = {relu: a > 0, tanh: 1 - np.tanh(a) ** 2, identity: np.ones_like(a)}[net.activation(k)]
        delta = np.einsum("p,bpi->bi", c / (s * beta), gate * np.array(eps)) / len(x)
        mean = np.einsum("p,bpi->bi", c, h)
        np.testing.assert_allclose(grads[k - 1]["kernel"], -mean.T @ delta, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(grads[k - 1]["bias"], -delta.sum(axis=0), rtol=1e-10, atol=1e-13)


def test_the_first_sweeps_signals_by_hand():
    """beta times backpropagation's at the free state; errors, gates and states are the nudged phase's."""
    problem = net, params, x, y = mlp(relu)
    beta = 0.4
    _, solution = gradient(problem, BOTH, beta)
    free = jax.vmap(lambda x: net.forward(params, x))(x)

    def downstream(h, k):
        for j in range(k + 1, len(net) + 1):
            h = net.predict(params[j - 1], j, h)
        return h

    for p, s in enumerate((1, -1)):
        h = x
        for k in range(1, len(net) + 1):
            T = -s * beta * jax.vmap(jax.grad(lambda h, y, k=k: CE(downstream(h, k), y)))(free[k - 1], y)
            f = jax.vmap(lambda h, k=k: net.predict(params[k - 1], k, h))(h)
            h = net.activation(k).project(f + T)
            np.testing.assert_allclose(solution.h[k - 1][:, p], h, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(solution.errors[k - 1][:, p], h - f, rtol=1e-9, atol=1e-13)


def test_where_a_product_is_exact():
    """At the clamped input, and where the errors of two phases are opposite: layers without gates or curvature."""
    linear = case(epjax.models.mlp([7, 6, 4], activation=identity, gain=1.7), (5,))
    shared, own = (gradient(linear, {"signals": "shared", "products": p}, 0.5)[0] for p in ("shared", "own"))
    assert distance(shared[:-1], own[:-1]) < 1e-13
    for problem in (mlp(relu), conv_net()):
        shared, own = (gradient(problem, {"products": p}, 0.5)[0][0] for p in ("shared", "own"))
        assert distance(shared, own) < 1e-13


@pytest.mark.parametrize("points", [1, 2])
def test_a_product_is_right_to_the_order_of_the_scheme(points):
    """A smooth network: one product and one of each phase differ by O(beta^2N), N points."""
    net, params, x, y = mlp(tanh)

    @jax.jit
    def both(beta):
        methods = (epjax.Sweep(1, update="pgd", products=products) for products in ("shared", "own"))
        eps = [epjax.value_and_grad(net, CE, beta=beta, points=points, equilibration=method) for method in methods]
        return [ep(params, x, y, None)[1] for ep in eps]

    betas = np.array([0.04, 0.02, 0.01])
    differences = [distance(*both(b)) for b in betas]
    slope = np.polyfit(np.log(betas), np.log(differences), 1)[0]
    assert abs(slope - 2 * points) < 0.1, differences


def test_products_of_any_module_are_shared():
    """Whatever its module, a layer's gradient is near the plain one at finite beta, and not it; the input's is it."""
    problem = conv_net()
    shared, own = (gradient(problem, {"products": p}, 0.1, argnums=(0, 1))[0] for p in ("shared", "own"))
    np.testing.assert_allclose(shared[1], own[1], rtol=1e-12, atol=1e-15)
    for k, (one, two) in enumerate(zip(shared[0], own[0], strict=True)):
        assert (0 < distance(one, two) < 0.05) == (k > 0), k


def test_a_mean_of_one_state_is_the_state():
    net, params, x, _ = conv_net()
    state = jax.vmap(lambda x: net.forward(params, x)[0])(x[:1])

    def loss(theta, h, how):
        predict = lambda theta, h: net.predict(theta, 2, h)  # noqa: E731
        if how == "mean":
            c = jnp.ones(1)
            f = jax.vmap(lambda c, h: at_mean_states(predict, c, "p", theta, h), axis_name="p")(c, h)
        else:
            f = jax.vmap(lambda h: predict(theta, h))(h)
        return jnp.sum(jnp.sin(f))

    one, two = (jax.value_and_grad(loss, argnums=(0, 1))(params[1], state, how) for how in ("mean", "plain"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), one, two)


def test_further_sweeps_go_to_the_same_equilibrium():
    problem = conv_net()
    (_, shared), (_, own) = (gradient(problem, how, 0.02, 40) for how in (BOTH, OWN))
    for one, two in zip(shared.h + shared.errors, own.h + own.errors, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-13)
    first = [distance(gradient(problem, how, 0.02)[1].errors, own.errors) for how in (BOTH, OWN)]
    assert 0 < first[0] < 1.5 * first[1] + 1e-3


@pytest.mark.parametrize(
    "options",
    [{"scheme": "forward"}, {"scheme": "random"}, {"phases": "sequential"}, {"errors": "recomputed"}],
    ids=str,
)
def test_nothing_is_shared_where_it_was_not_asked_for(options):
    """A lone phase, phases in sequence, and errors that are measured: the same program as without sharing."""
    problem = mlp(relu)
    usual, own = (gradient(problem, how, 0.3, **options)[0] for how in ({}, OWN))
    jax.tree.map(np.testing.assert_array_equal, usual, own)
    assert distance(gradient(problem, {}, 0.3)[0], gradient(problem, OWN, 0.3)[0]) > 1e-4


def test_a_maximum_gives_its_gradient_to_the_first_of_equals():
    a = jnp.array([[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])[:, :, None]
    pooled, pull = jax.vjp(max_pool, a)
    np.testing.assert_array_equal(pooled[:, :, 0], [[1.0, 2.0]])
    (g,) = pull(jnp.array([[[3.0], [7.0]]]))
    np.testing.assert_array_equal(g[:, :, 0], [[3.0, 0, 0, 7.0], [0, 0, 0, 0], [0, 0, 0, 0]])
    _, moved = jax.jvp(max_pool, (a,), (jnp.arange(12.0).reshape(3, 4, 1),))
    np.testing.assert_array_equal(moved[:, :, 0], [[0.0, 3.0]])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: epjax.Sweep(1, signals="all"), "signals must be 'shared' or 'own', got 'all'"),
        (lambda: epjax.Sweep(1, products=True), "products must be None, 'shared' or 'own', got True"),
        (
            lambda: gradient(mlp(), {"products": "shared"}, phases="sequential"),
            "products must be 'own' unless phases of real strength run together, got 'shared'",
        ),
        (
            lambda: gradient(mlp(), {"products": "shared"}, scheme="holomorphic"),
            "products must be 'own' unless phases of real strength run together, got 'shared'",
        ),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
