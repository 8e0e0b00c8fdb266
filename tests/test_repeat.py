"""Oracle: the network of single layers, `jax.grad` in float64, one device against eight. A run of equal layers.

Catches a run that is another network than its layers one by one: parameters drawn from other keys, signals that pass a
unit twice or go to the wrong one, errors of the wrong layer, a skip inside a unit that is lost, what a linearisation
keeps taken from another unit, a stack that is cut along its layers, an optimiser that takes a stack for one matrix.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import epjax
from epjax import Layer, Network, Repeat
from epjax.models.resnet import resnet
from epjax.network import Stacked, unrolled
from epjax.network.activation import identity, relu, tanh
from epjax.network.drive import Conv, Dense
from epjax.systems import layer_by_layer
from epjax.training import optimiser, sharding
from epjax.training.checkpoint import Checkpoints, describe
from epjax.training.step import initial_state

CE = epjax.cost.cross_entropy
N = 3
KEY = jax.random.key(0)


class Residual(nn.Module):
    """h + W tanh(V h / |h|)."""

    @nn.compact
    def __call__(self, h):
        normed = h / jnp.sqrt(1 + jnp.mean(h * h, axis=-1, keepdims=True))
        return h + nn.Dense(h.shape[-1])(jnp.tanh(nn.Dense(7)(normed)))


def unit(kind):
    """One unit, anew each time: a linen module that stands in two layers would be tied."""
    match kind:
        case "relu":
            return (Layer(Dense(6, gain=1.7), relu),)
        case "block":
            return (Layer(Residual(), identity),)
        case "pair":  # the second layer of the unit takes what the unit takes
            return (Layer(Dense(9, gain=1.7), tanh), Layer(Dense(6), identity, skips=(0,)))
        case "conv":
            return (Layer(Conv(4, gain=2.0), relu),)


def networks(kind, n=N):
    """The run, and its layers one by one."""
    below = Layer(Conv(4, gain=2.0) if kind == "conv" else Dense(6, gain=1.7), relu)
    top = Layer(Dense(4), identity)
    flat = []
    for i in range(n):
        flat += [Layer(one.drive, one.activation, tuple(2 * i + 1 for _ in one.skips)) for one in unit(kind)]
    one = unit(kind)
    run = Repeat(one if len(one) > 1 else one[0], n)
    return Network((below, run, top)), Network((below, *flat, top))


def case(kind, batch=4):
    net, flat = networks(kind)
    shape = (5, 5, 2) if kind == "conv" else (5,)
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(KEY, shape))
    x = jax.random.normal(jax.random.key(1), (batch, *shape), jnp.float64)
    return net, flat, params, x, jnp.arange(batch) % 4


def same(stacked, single, rtol=1e-12):
    """Equal to float64 rounding, of the largest number of each array."""
    found, wanted = jax.tree.leaves(stacked), jax.tree.leaves(single)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(float(np.max(np.abs(b))), 1e-300))


def sweep(kind, sweeps=1, **options):
    return epjax.Sweep(sweeps, update="mod_pgd" if kind in ("relu", "conv") else "pgd", **options)


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["relu", "block", "pair"])
def test_one_sweep_is_that_of_the_layers_one_by_one(kind, x64):
    net, flat, params, x, y = case(kind)
    single = unrolled(net).spread(params)
    same(single, flat.init(KEY, (5,)), 1e-6)  # drawn in float32, by the same keys
    assert unrolled(flat) is flat
    options = {"beta": 0.01, "equilibration": sweep(kind), "argnums": (0, 1)}
    (cost, aux), (grads, to_x) = jax.jit(epjax.value_and_grad(net, CE, **options))(params, x, y)
    (wanted, told), (by_layer, to_x_too) = jax.jit(epjax.value_and_grad(flat, CE, **options))(single, x, y)
    same((cost, aux.output, aux.solution.displacement), (wanted, told.output, told.solution.displacement))
    same((unrolled(net).spread(grads), to_x), (by_layer, to_x_too))
    assert isinstance(grads[1], Stacked)


ESTIMATES = {
    "forward": {"scheme": "forward"},
    "random": {"scheme": "random"},
    "points": {"points": 2},
    "own products": {"equilibration": {"products": "own"}},
    "shared signals": {"equilibration": {"signals": "shared"}},
    "three sweeps": {"equilibration": {"sweeps": 3, "residual": True, "trace": True}},
    "tolerance": {"equilibration": {"sweeps": 9, "tolerance": 1e-3}},
    "recomputed": {"errors": "recomputed", "equilibration": {"sweeps": 2}},
    "clamp": {"perturbation": "clamp", "equilibration": {"sweeps": 2}},
    "in sequence": {"phases": "sequential"},
}


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("kind", ["relu", "pair"])
def test_every_estimate_is_that_of_the_layers_one_by_one(kind, name, x64):
    net, flat, params, x, y = case(kind)
    options = {"beta": 0.01, **ESTIMATES[name]}
    options["equilibration"] = sweep(kind, **options.get("equilibration", {}))
    cost = "squared_error" if name == "clamp" else CE
    (_, aux), grads = jax.jit(epjax.value_and_grad(net, cost, **options))(params, x, y, KEY)
    single = unrolled(net).spread(params)
    (_, told), by_layer = jax.jit(epjax.value_and_grad(flat, cost, **options))(single, x, y, KEY)
    same(unrolled(net).spread(grads), by_layer, 1e-9)
    same(aux.solution.displacement, told.solution.displacement, 1e-9)
    if name == "three sweeps":
        same((aux.solution.residual, aux.solution.energies), (told.solution.residual, told.solution.energies), 1e-9)


@pytest.mark.fast
def test_what_takes_layers_by_themselves_is_given_them(x64):
    """Even/odd updates, diagnosis, predictive coding's own algorithms: the run laid out, its gradient a stack."""
    net, flat, params, x, y = case("relu")
    single = unrolled(net).spread(params)
    gradient = {"equilibration": epjax.Async(3), "beta": 0.01}
    _, grads = jax.jit(epjax.value_and_grad(net, CE, **gradient))(params, x, y)
    same(unrolled(net).spread(grads), jax.jit(epjax.value_and_grad(flat, CE, **gradient))(single, x, y)[1])
    assert len(layer_by_layer(epjax.systems.PCN(net)).net) == len(layer_by_layer(net)) == N + 2
    report = epjax.diagnose(net, params, x, y, beta=1e-4)
    assert len(report.layers) == net.depth == N + 2
    assert min(layer.cosine for layer in report.layers) > 0.999


@pytest.mark.parametrize("algorithm", ["inference_learning", "error_optimisation"])
def test_predictive_coding_s_own_algorithms_lay_it_out(algorithm, x64):
    net, flat, params, x, y = case("block")
    make = getattr(epjax.pc, f"{algorithm}_value_and_grad")
    _, grads = jax.jit(make(net, "squared_error", steps=3))(params, x, y)
    single = unrolled(net).spread(params)
    same(unrolled(net).spread(grads), jax.jit(make(flat, "squared_error", steps=3))(single, x, y)[1])


def test_precisions_of_layers(x64):
    net, flat, params, x, y = case("relu")
    pi = (1.0, 2.0, 0.5, 1.5, 1.0)
    estimate = [epjax.value_and_grad(epjax.systems.PCN(one, pi), CE, beta=0.01) for one in (net, flat)]
    single = unrolled(net).spread(params)
    same(unrolled(net).spread(estimate[0](params, x, y)[1]), estimate[1](single, x, y)[1])


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["block", "pair", "conv"])
def test_a_small_nudge_gives_the_gradient_of_jax(kind, x64):
    net, _, params, x, y = case(kind)
    gradient = epjax.value_and_grad(net, CE, beta=1e-5, equilibration=sweep(kind))
    _, grads = jax.jit(gradient)(params, x, y)

    def mean_cost(params):
        return jnp.mean(jax.vmap(lambda x, y: CE(net.forward(params, x)[-1], y))(x, y))

    same(grads, jax.grad(mean_cost)(params), 1e-5)
    same(epjax.backprop_value_and_grad(net, CE)(params, x, y)[1], jax.grad(mean_cost)(params))


@pytest.mark.fast
def test_states_and_energy_are_stacked(x64):
    net, flat, params, x, _ = case("pair")
    states = net.forward(params, x[0])
    assert [v.shape for v in states[1].units] == [(N, 9), (N, 6)]
    flat_states = flat.forward(unrolled(net).spread(params), x[0])
    laid_out = [v for one in states[1].laid_out() for v in one]
    same((states[0], laid_out, states[2]), (flat_states[0], list(flat_states[1:-1]), flat_states[-1]))
    same(net.output(params, x[0]), flat_states[-1])
    moved = jax.tree.map(lambda v: v + 0.1 * jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape), states)
    flat_moved = (moved[0], *(v for one in moved[1].laid_out() for v in one), moved[2])
    E = epjax.energy.energy(net, params, x[0], moved)
    same(E, epjax.energy.energy(flat, unrolled(net).spread(params), x[0], flat_moved))


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_products_are_rounded_as_those_of_single_layers(precision):
    net, flat = (Network(one.layers, precision) for one in networks("relu"))
    params = net.init(KEY, (5,))
    x, y = jax.random.normal(jax.random.key(1), (4, 5)), jnp.arange(4) % 4
    single = unrolled(net).spread(params)
    _, grads = epjax.value_and_grad(net, CE, beta=0.01)(params, x, y)
    same(unrolled(net).spread(grads), epjax.value_and_grad(flat, CE, beta=0.01)(single, x, y)[1], 1e-2)


@pytest.mark.fast
def test_the_program_does_not_grow_with_depth():
    def size(n):
        net, _ = networks("relu", n)
        params = jax.eval_shape(lambda: net.init(KEY, (5,)))
        x, y = jax.ShapeDtypeStruct((4, 5), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
        return str(jax.make_jaxpr(epjax.value_and_grad(net, CE))(params, x, y)).count(" = ")

    assert size(100) == size(10)


class Wide(nn.Module):
    """A block whose inside is much larger than what it gives."""

    @nn.compact
    def __call__(self, h):
        return h + nn.Dense(h.shape[-1])(jnp.tanh(nn.Dense(96)(jnp.tanh(nn.Dense(96)(h)))))


CHECKPOINTS = {"all": False, "none": True, "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
GRADIENTS = {
    "backpropagation": epjax.backprop_value_and_grad,
    "one-sided": lambda net, cost: epjax.value_and_grad(
        net, cost, scheme="forward", equilibration=sweep("block", pulls="own")
    ),
    "centered": lambda net, cost: epjax.value_and_grad(net, cost, equilibration=sweep("block", 3)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_what_is_kept_changes_memory_and_no_number(name, x64):
    """XLA's temporaries of 16 blocks fall to less than half where nothing inside of a block is kept."""

    def network(kept):
        return Network(
            (Layer(nn.Dense(8), identity), Repeat(Layer(Wide(), identity), 16, kept), Layer(nn.Dense(4), identity))
        )

    params = jax.tree.map(lambda v: v.astype(jnp.float64), network(False).init(KEY, (5,)))
    x, y = jax.random.normal(jax.random.key(1), (32, 5), jnp.float64), jnp.arange(32) % 4
    compiled = {
        k: jax.jit(GRADIENTS[name](network(kept), CE)).lower(params, x, y).compile() for k, kept in CHECKPOINTS.items()
    }
    memory = {kept: one.memory_analysis().temp_size_in_bytes for kept, one in compiled.items()}
    assert memory["none"] < 0.5 * memory["all"]
    assert memory["none"] <= memory["products"] <= memory["all"]
    wanted = compiled["all"](params, x, y)
    for kept in ("none", "products"):
        same(compiled[kept](params, x, y)[1], wanted[1], 1e-9)


def test_a_checkpoint_keeps_no_pulls_unless_asked_to(x64):
    """They would be kept from the pass down to the weights: a run with a checkpoint has each phase pull its own."""
    layers = Layer(nn.Dense(8), identity), Repeat(Layer(Wide(), identity), 16, True), Layer(nn.Dense(4), identity)
    net = Network(layers)
    params = jax.tree.map(lambda v: v.astype(jnp.float64), net.init(KEY, (5,)))
    x, y = jax.random.normal(jax.random.key(1), (32, 5), jnp.float64), jnp.arange(32) % 4
    usual, own, shared = (
        jax.jit(epjax.value_and_grad(net, CE, beta=0.1, equilibration=sweep("block", pulls=pulls)))
        .lower(params, x, y)
        .compile()
        for pulls in (None, "own", "shared")
    )
    memory = [one.memory_analysis().temp_size_in_bytes for one in (usual, own, shared)]
    assert memory[0] == memory[1] < memory[2]
    same(usual(params, x, y)[1], own(params, x, y)[1])


@pytest.mark.fast
def test_table_and_name():
    net, flat = networks("pair")
    assert "8 layers" in repr(net)
    assert "3 x Dense + Dense" in repr(net)
    table = net.summary((5,)).splitlines()
    assert table[-1].split() == flat.summary((5,)).splitlines()[-1].split()


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_one_device_against_eight():
    """Parameters in slices too: never cut along the layers of the run."""
    net = Network((Layer(Dense(128)), Repeat(Layer(Dense(128), tanh), 8), Layer(Dense(4), identity)))
    params = net.init(KEY, (5,))
    x, y = jax.random.normal(jax.random.key(1), (16, 5)), jnp.arange(16) % 4
    estimate = epjax.value_and_grad(net, CE, beta=0.01, equilibration=epjax.Sweep(2, update="pgd"))
    one = jax.jit(estimate)(params, x, y)
    mesh = sharding.make_mesh(4)
    placed = sharding.state_shardings(mesh, params)
    assert placed[1].units[0]["kernel"].spec == jax.sharding.PartitionSpec(None, "model", None)
    assert placed[1].units[0]["bias"].spec == jax.sharding.PartitionSpec()
    many = jax.jit(sharding.per_device(estimate, mesh))(jax.device_put(params, placed), x, y)
    same((many[0][0], many[1]), (one[0][0], one[1]), 1e-4)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_a_language_model_on_one_device_and_on_eight():
    """Its stacked blocks in slices, of matrices and never of layers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax's attention mixes dtypes
        net = epjax.models.gpt(16, 4, features=64, depth=2, heads=2, split=False, stacked=True)
        params = jax.jit(net.init, static_argnums=1)(KEY, (4,))
        x = jax.random.randint(jax.random.key(1), (8, 4), 0, 16)
        estimate = epjax.value_and_grad(net, CE, scheme="forward", equilibration=sweep("block"))
        one = jax.jit(estimate)(params, x, x)
        mesh = sharding.make_mesh(4)
        placed = sharding.state_shardings(mesh, params)
        specs = {sharded.spec for sharded in jax.tree.leaves(placed[1])}
        assert any("model" in spec for spec in specs)
        assert all(spec[0] is None for spec in specs if len(spec))
        many = jax.jit(sharding.per_device(estimate, mesh))(jax.device_put(params, placed), x, x)
    largest = max(float(jnp.abs(v).max()) for v in jax.tree.leaves(one[1]))  # of keys' biases it is zero but rounding
    for a, b in zip(jax.tree.leaves(many[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest)


def test_a_run_that_was_interrupted(tmp_path):
    """Saved after two steps and gone on with, bit for bit the run of four."""
    net, _ = networks("block")
    make = optimiser.sgd(0.1)
    estimate = epjax.value_and_grad(net, CE, equilibration=sweep("block"))
    x, y = jax.random.normal(jax.random.key(1), (4, 5)), jnp.arange(4) % 4

    @jax.jit
    def step(state):
        updates, opt_state = make.update(estimate(state.params, x, y)[1], state.opt_state, state.params)
        return type(state)(optax.apply_updates(state.params, updates), opt_state, state.step + 1)

    halfway = step(step(initial_state(net.init(KEY, (5,)), make)))
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(2, halfway)
    checkpoints.close()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found = Checkpoints(tmp_path, {}).restore(describe(halfway, sharding.state_shardings(mesh, halfway))).state
    assert isinstance(found.params[1], Stacked)
    jax.tree.map(np.testing.assert_array_equal, step(step(halfway)), step(step(found)))


def test_muon_takes_a_stack_for_its_matrices():
    net, _ = networks("relu")
    params = net.init(KEY, (5,))
    single = unrolled(net).spread(params)
    muon = optax.chain(*optimiser.OPTIMISERS["muon"](0.9, optax.identity()))
    with jax.numpy_dtype_promotion("standard"):
        found = muon.update(params, muon.init(params), params)[0]
        wanted = muon.update(single, muon.init(single), single)[0]
    same(unrolled(net).spread(found), wanted, 1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Repeat(Layer(Dense(3)), 0), "n must be a whole number of layers, at least 1, got 0"),
        (lambda: Repeat(Layer(Dense(3)), 2.0), "n must be a whole number of layers, at least 1, got 2.0"),
        (
            lambda: Repeat(Layer(Dense(3)), 2, "dots"),
            "checkpoint must be True, False or a policy, such as .*, got 'dots'",
        ),
        (lambda: Repeat(Dense(3), 2), "layer must be a Layer or a tuple of Layers, got"),
        (lambda: Repeat((), 2), r"layer must be a Layer or a tuple of Layers, got \(\)"),
        (lambda: Repeat((Layer(Dense(3)), Dense(3)), 2), "layer must be a Layer or a tuple of Layers, got a Dense"),
        (lambda: Repeat(Layer(Dense(3), skips=(0,)), 2), "skips of a repeated layer must be none in the first layer"),
        (lambda: Network((Repeat(Layer(Dense(3)), 2),)), "layers must end with a Layer, the output, got a Repeat of 2"),
        (
            lambda: Network((Repeat(Layer(Dense(3)), 2), Layer(Dense(2)))).init(KEY, (5,)),
            r"layer 1 \(2 x Dense\) must give what it takes, for it is repeated: it takes float32 \[5\] and gives "
            r"float32 \[3\]",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


MODELS = {
    "mlp": (lambda **o: epjax.models.mlp([6, 6, 6, 5, 4], gain=1.7, **o), (5,), 4),
    "gpt": (lambda **o: epjax.models.gpt(7, 5, features=8, depth=2, heads=2, **o), (5,), 3),
    "vit": (lambda **o: epjax.models.vit(4, features=8, depth=2, heads=2, **o), (8, 8, 3), 3),
    "resnet": (
        lambda **o: resnet((2, 3), 4, width=0.125, small_images=True, **o),
        (8, 8, 3),
        5,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_the_same_stacked(name):
    make, shape, entries = MODELS[name]
    single, stacked = make(), make(stacked=True)
    assert len(stacked) == entries < len(single) == stacked.depth
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax's attention mixes dtypes
        params = stacked.init(KEY, shape)
        by_layer = unrolled(stacked).spread(params)
        same(by_layer, single.init(KEY, shape), 1e-5)
        tokens = name.startswith("gpt")
        x = jnp.ones((2, *shape), jnp.int32) if tokens else jax.random.normal(jax.random.key(1), (2, *shape))
        y = jnp.ones((2, *shape), jnp.int32) if tokens else jnp.arange(2)
        _, grads = jax.jit(epjax.value_and_grad(stacked, CE))(params, x, y)
        _, wanted = jax.jit(epjax.value_and_grad(single, CE))(by_layer, x, y)
    for a, b in zip(unrolled(stacked).spread(grads), wanted, strict=True):
        a, b = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)]) for tree in (a, b))
        assert a @ b > 0.99999 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_module_of_a_run_that_stands_elsewhere_is_refused():
    """It would be untied silently: each layer of a run has parameters of its own."""
    shared = Layer(nn.Dense(6), relu)
    for layers in ((shared, Repeat(shared, 2)), (Repeat(shared, 2), Repeat(shared, 3))):
        with pytest.raises(ValueError, match=r"layers 1 and 2 share a module \(Dense\), and a Repeat is one of them"):
            Network((*layers, Layer(nn.Dense(3), identity)))
