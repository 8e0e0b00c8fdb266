"""Oracle: XLA's cost analysis. What an iteration, a sweep and an estimator cost in forward-equivalents (F).

Catches a drive that is evaluated twice, a linearisation that is thrown away, a phase that recomputes the free one, a
weight gradient formed example by example. A loop's body is counted once by XLA: iterations are laid out to count them.
"""

import jax
import jax.numpy as jnp
import pytest

import epjax
from epjax.models.resnet import resnet
from epjax.network.activation import identity, relu
from epjax.network.drive import Conv, Dense
from epjax.perturbation import Nudge
from epjax.systems.pcn.problem import Problem, equilibrate
from epjax.systems.pcn.signals import free_phase

CE = epjax.cost.cross_entropy
IMAGE = (16, 16, 16)
OWN = {"signals": "own", "products": "own"}


def network(L=8, pool=False):
    """Equal convolutions, so that every layer but the head costs the same; the first has a clamped input.

    With `pool` the last of them pools, so that nothing but the head is smaller.
    """
    convs = [epjax.Layer(Conv(16, pool=pool and k == L - 2), relu) for k in range(L - 1)]
    return epjax.Network((*convs, epjax.Layer(Dense(4), identity)))


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def setting():
    net = network()
    params = net.init(jax.random.key(0), IMAGE)
    x, y = jax.random.normal(jax.random.key(1), (4, *IMAGE)), jnp.arange(4)
    forward = flops(jax.vmap(lambda p, x: net.forward(p, x)[-1], in_axes=(None, 0)), params, x)
    backprop = flops(epjax.backprop_value_and_grad(net, CE), params, x, y, None)
    return net, params, x, y, forward, backprop


def test_backpropagation_costs_three(setting):
    """Forward, activities, weights; the first layer needs no gradient for its input."""
    *_, forward, backprop = setting
    assert 2.7 < backprop / forward < 3.0


def test_an_iteration_costs_two_forward_equivalents(setting):
    """Each half-step evaluates each drive once and one vector-Jacobian product. The first layer's drive never moves."""
    net, params, x, y, forward, _ = setting

    def after(K):
        def solve(params, x, y):
            problem = Problem(net, params, free_phase(net, params, x), Nudge(CE, y, jnp.float32(0.1)))
            return equilibrate(problem, epjax.Async(K, unroll=K)).errors

        return flops(jax.vmap(solve, in_axes=(None, 0, 0)), params, x, y)

    layers = len(net) - 1
    for K in (5, 6, 7):
        iteration = (after(K + 1) - after(K)) / forward
        assert 2 * (layers - 1) / layers - 0.02 < iteration < 2.03


def test_skipping_unreached_layers_saves_work(setting):
    """The iteration in which the output moves touches the output layer and the one below it."""
    net, params, x, y, forward, _ = setting

    def solve(params, x, y):
        problem = Problem(net, params, free_phase(net, params, x), Nudge(CE, y, jnp.float32(0.1)))
        return equilibrate(problem, epjax.Async(4, unroll=4)).h[0]

    # Half-step s pulls s - 1 layers and evaluates s - 2 drives that have moved: 1/2 of the work of 4 iterations.
    assert flops(jax.vmap(solve, in_axes=(None, 0, 0)), params, x, y) < (1 + 0.6 * 8) * forward


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(
    ("scheme", "sharing", "F"),
    [
        ("random", {}, 4),
        ("forward", {}, 4),
        ("centered", OWN, 7),
        ("centered", {}, 6),
        ("centered", {"signals": "shared"}, 5),
    ],
)
@pytest.mark.parametrize("L", [8, 16])
def test_one_sweep_costs_the_same_at_any_depth(scheme, sharing, F, L, pool):
    """Free phase, then one backward, one forward and one weight gradient a phase, against 3 F of backpropagation.

    Two phases share the weight gradient, 1 + 2 + 2 + 1, and the backward pass if told to, pooling or not.
    """
    net = network(L, pool)
    params = net.init(jax.random.key(0), IMAGE)
    x, y = jax.ShapeDtypeStruct((4, *IMAGE), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    key = jax.random.key(0)
    method = epjax.Sweep(1, **sharing)
    ep = flops(epjax.value_and_grad(net, CE, scheme=scheme, equilibration=method), params, x, y, key)
    bp = flops(epjax.backprop_value_and_grad(net, CE), params, x, y, key)
    assert (F - 0.5) / 3 < ep / bp < F / 3 * 1.03


@pytest.mark.parametrize(
    ("scheme", "pulls", "units"),
    [("forward", "shared", 16.2), ("centered", "shared", 19.8), ("forward", "own", 18.2), ("centered", "own", 23.8)],
)
def test_blocks_are_passed_through_once_a_phase(scheme, pulls, units):
    """Of two convolutions: the pass down pulls eps through the second, for the weights too, and no pass is repeated.

    In units of the stem's convolution the network is 1 + 2 + 1.56 and backpropagation 12.7. One-sided 16.2 = free
    4.56, backward 3.56, forward 3.56, weights 4.56. Centered 19.8: both phases share one backward pass, its pulls and
    the weights' products: 4.56 + 3.56 + 7.12 + 4.56. With pulls of its own each phase has 2 more.
    """
    net = resnet((1, 1), 4, width=1 / 2, small_images=True)
    params = jax.eval_shape(lambda key: net.init(key, (16, 16, 32)), jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((4, 16, 16, 32), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    sweep = epjax.Sweep(1, pulls=pulls)
    ep = flops(epjax.value_and_grad(net, CE, scheme=scheme, equilibration=sweep), params, x, y, None)
    bp = flops(epjax.backprop_value_and_grad(net, CE), params, x, y, None)
    assert 0.97 < ep / bp / (units / 12.7) < 1.03


@pytest.mark.parametrize("sweeps", [2, 3])
def test_a_further_sweep_costs_two_forward_equivalents(setting, sweeps):
    net, params, x, y, forward, _ = setting

    def cost(S):
        ep = epjax.value_and_grad(net, CE, scheme="forward", equilibration=epjax.Sweep(S, unroll=S))
        return flops(ep, params, x, y, None)

    assert 1.7 < (cost(sweeps + 1) - cost(sweeps)) / forward < 2.05


def test_memory_does_not_hold_a_gradient_for_each_example(setting):
    """A kernel's gradient is summed over the batch inside its product."""
    net, params, *_ = setting
    key = jax.random.key(0)

    def temporaries(f, B):
        x, y = jax.ShapeDtypeStruct((B, 2, 2, 16), jnp.float32), jax.ShapeDtypeStruct((B,), jnp.int32)
        small = net.init(key, (2, 2, 16))
        return jax.jit(f).lower(small, x, y, key).compile().memory_analysis().temp_size_in_bytes

    weights = sum(v.nbytes for v in jax.tree.leaves(params[:-1]))
    for f in (epjax.value_and_grad(net, CE), epjax.backprop_value_and_grad(net, CE)):
        assert temporaries(f, 64) - temporaries(f, 32) < 8 * weights


def test_phases_in_sequence_need_less_memory(setting):
    """The second phase cannot start before the first is done, and pays a free phase for it."""
    net, params, *_, forward, _ = setting
    x, y = jax.ShapeDtypeStruct((64, *IMAGE), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)

    def compiled(phases):
        ep = epjax.value_and_grad(net, CE, phases=phases, equilibration=epjax.Sweep(1, **OWN))
        program = jax.jit(ep).lower(params, x, y, None).compile()
        return program.memory_analysis().temp_size_in_bytes, program.cost_analysis()["flops"]

    (together, together_flops), (sequential, sequential_flops) = compiled("together"), compiled("sequential")
    assert sequential < 0.75 * together
    assert sequential_flops < together_flops + 1.2 * 64 / 4 * forward
