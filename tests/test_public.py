"""Every public name once, on a handful of numbers. Oracles: paper and pencil, `jax.grad`, counts that are published.

Catches a name that no longer does what its first sentence says; what each does in all its forms, other tests know.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epjax
from epjax import Layer, Network, Relax, activation, cost, drive, energy, models, systems
from epjax.data import LostWorker, Prefetch, Source, Stats, Transform, prefetch

pytestmark = pytest.mark.fast

W = (jnp.asarray([[1.0, -1.0], [0.5, 2.0]]), jnp.asarray([[1.0, 0.0], [-1.0, 1.0]]))
PARAMS = tuple({"kernel": w, "bias": jnp.zeros(2)} for w in W)
NET = Network((Layer(drive.Dense(2), activation.relu), Layer(drive.Dense(2), activation.identity)))
X, Y = jnp.asarray([[1.0, 2.0]]), jnp.asarray([1])
"""a_1 = (2, 3), h_1 = (2, 3), h_2 = (-1, 3)."""


@pytest.mark.parametrize(
    "method",
    [epjax.Sweep(1), epjax.Async(2), epjax.Sync(200, update="pgd", step_size=0.2)],
    ids=["sweep", "async", "sync"],
)
def test_gradients(method):
    """dC/dh_2 = h_2 - onehot(y) = (-1, 2), dC/dW_2 = h_1 dC/dh_2^T, dC/dh_1 = W_2 dC/dh_2 = (-1, 3)."""
    expected = (
        {"bias": jnp.asarray([-1.0, 3.0]), "kernel": jnp.asarray([[-1.0, 3.0], [-2.0, 6.0]])},
        {"bias": jnp.asarray([-1.0, 2.0]), "kernel": jnp.asarray([[-2.0, 4.0], [-3.0, 6.0]])},
    )
    ep = epjax.value_and_grad(NET, cost.squared_error, beta=1e-3, equilibration=method)
    bp = epjax.backprop_value_and_grad(NET, cost.squared_error)
    exact = epjax.exact_value_and_grad(systems.PCN(NET), "squared_error")
    loss = epjax.ep_loss(NET, "squared_error", beta=1e-3, equilibration=method)
    (value, aux), grads = ep(PARAMS, X, Y, None)
    assert value == pytest.approx(2.5)
    assert isinstance(aux, epjax.Aux)
    assert isinstance(aux.solution, epjax.Solution)
    np.testing.assert_allclose(aux.output, [[-1.0, 3.0]])
    for found in (grads, bp(PARAMS, X, Y, None)[1], exact(PARAMS, X, Y, None)[1], jax.grad(loss)(PARAMS, X, Y)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-2), found, expected)


def test_a_diagnosis():
    found = epjax.diagnose(NET, PARAMS, X, Y, beta=1e-3)
    assert found.verdict == "good"
    assert len(found.layers) == 2


def test_a_flax_model_is_a_network():
    from flax import linen

    net = epjax.from_flax([linen.Dense(2), linen.relu, linen.Dense(2)])
    jax.tree.map(np.testing.assert_array_equal, net.forward(PARAMS, X[0]), NET.forward(PARAMS, X[0]))


def test_energies():
    """At h = (0, 0) the errors are -f: eps_1 = (-2, -3), eps_2 = 0; E = 13 / 2."""
    zero = (jnp.zeros(2), jnp.zeros(2))
    eps = energy.prediction_errors(NET, PARAMS, X[0], zero)
    np.testing.assert_array_equal(eps, [[-2.0, -3.0], [0.0, 0.0]])
    assert energy.half_squared_norm(eps) == energy.energy(NET, PARAMS, X[0], zero) == 6.5
    F = partial(energy.total_energy, NET, cost.squared_error, PARAMS, X[0], Y[0], jnp.asarray(2.0))
    assert F(zero) == 6.5 + 2.0 * 0.5
    at_rest = NET.forward(PARAMS, X[0])
    assert energy.energy(NET, PARAMS, X[0], at_rest) == 0
    pulled = energy.projected_gradient(NET, F, at_rest)
    np.testing.assert_allclose(pulled, [[0.0, 0.0], [-2.0, 4.0]])  # beta dC/dh_2


def test_costs():
    h = jnp.log(jnp.asarray([1.0, 3.0]))
    assert cost.cross_entropy(h, jnp.asarray(1)) == pytest.approx(np.log(4 / 3))
    assert cost.squared_error(jnp.asarray([1.0, 3.0]), jnp.asarray([0.0, 1.0])) == 2.5
    assert cost.log_phase(jnp.asarray([-1.0, 1.0]), jnp.asarray(1)) == pytest.approx(0, abs=1e-6)
    assert cost.log_phase(jnp.asarray([1.0]), jnp.asarray([1.0])) == pytest.approx(0.0, abs=1e-6)
    assert cost.as_cost("squared_error") is cost.squared_error
    assert cost.is_known(h)
    np.testing.assert_array_equal(cost.as_target(1, 3, jnp.dtype(jnp.float32)), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(cost.smooth_labels(1, 2, 0.2), [0.1, 0.9], rtol=1e-6)
    with pytest.raises(ValueError, match="soft labels must sum to one"):
        cost.check_soft_labels(cost.cross_entropy, jnp.asarray([[0.5, 0.6]]))
    with pytest.raises(ValueError, match=r"class indices 0\.\.2"):
        cost.check_labels(cost.squared_error, jnp.asarray([0, 3]), 3)


def test_activations():
    assert activation.as_activation("relu") is activation.as_activation(jax.nn.relu) is activation.relu
    twice = activation.Activation("twice", lambda a: 2 * a)
    assert twice(jnp.asarray(1.5)) == 3.0
    with pytest.raises(ValueError, match="needs activations that are projections"):
        activation.check_update("mod_pgd", (twice,))


def test_drives():
    image = jnp.arange(16.0).reshape(4, 4, 1)
    np.testing.assert_array_equal(drive.max_pool(image)[..., 0], [[5.0, 7.0], [13.0, 15.0]])
    np.testing.assert_array_equal(drive.conv3x3(image, jnp.ones((3, 3, 1, 1)))[1, 1, 0], image[:3, :3].sum())
    conv = drive.Conv(2, pool=True)
    assert isinstance(conv, drive.OneExample)
    assert conv.init_with_output(jax.random.key(0), image)[0].shape == (2, 2, 2)
    w = drive.uniform(2.0, "fan_in")(jax.random.key(0), (100, 50))
    assert 0.19 < jnp.abs(w).max() <= 0.2  # 2 / sqrt(100)


@pytest.mark.parametrize(
    ("make", "image", "L", "parameters"),
    [
        (models.resnet18, 224, 10, 11_689_512),
        (models.resnet34, 224, 18, 21_797_672),
        (models.resnet50, 224, 18, 25_557_032),
        (models.vgg5, 32, 6, None),
        (models.vgg10, 224, 10, 62_651_752),
        (models.vgg10_skip, 224, 10, None),
        (models.vit, 32, 14, None),
        (lambda: models.mlp([4, 1000]), 2, 2, 12 * 4 + 4 + 4 * 1000 + 1000),
    ],
)
def test_models(make, image, L, parameters):
    """Residual networks have the parameters that torchvision counts."""
    net, x = make(), (image, image, 3)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x))
    assert len(net) == L
    assert parameters in (None, sum(v.size for v in jax.tree.leaves(params)))
    output = jax.eval_shape(net.forward, params, jax.ShapeDtypeStruct(x, jnp.float32))[-1]
    assert output.shape in ((1000,), (10,))


@pytest.mark.parametrize(
    "system",
    [
        systems.Hopfield.dense((3, 2)),
        systems.Resistive((3, 2), input_gain=3.0),
        systems.Oscillators((3, 2)),
    ],
    ids=["hopfield", "resistive", "oscillators"],
)
def test_other_systems(system):
    """EP at a small beta beside the exact gradient, which is had without EP."""
    assert isinstance(system, systems.System)
    assert systems.as_system(system) is system
    assert systems.as_system(NET) == systems.PCN(NET)
    assert systems.as_equilibration("relax") == Relax()
    params = system.init(jax.random.key(0), (2,))
    settle = {"free": Relax(100, 1e-6), "equilibration": Relax(100, 1e-6)}
    x, y = jnp.asarray([[0.2, 0.9]]), jnp.asarray([1])
    _, ep = jax.jit(epjax.value_and_grad(system, "squared_error", beta=1e-3, **settle))(params, x, y)
    _, exact = jax.jit(epjax.exact_value_and_grad(system, "squared_error"))(params, x, y)
    largest = max(float(jnp.abs(v).max()) for v in jax.tree.leaves(exact))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-2 * largest), ep, exact)


def test_data_on_their_way_to_a_device():
    with prefetch(iter([1, 2]), jnp.asarray) as items:
        assert isinstance(items, Prefetch)
        assert [int(item) for item in items] == [1, 2]
    assert issubclass(LostWorker, RuntimeError | OSError)
    dataset = epjax.data.open_dataset("demo")
    assert isinstance(dataset, epjax.data.Dataset)
    assert isinstance(dataset.stats, Stats)
    source: Source = dataset.train
    transform: Transform = dataset.transforms()[1]
    assert transform(source[0], np.random.default_rng(0)).shape == transform.shape
