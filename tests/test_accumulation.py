"""Gradients in slices against the gradient of the whole batch: the same, to rounding.

Would catch: a sum instead of a mean over slices, signs drawn for the slice instead of the example, examples put back in
another order, a reduction for every slice, a slice's memory that is the whole batch's, a convolution that is slow
inside the loop.
"""

import re
import time

import jax
import jax.numpy as jnp
import mesh_cases
import numpy as np
import pytest
from test_sharding import collectives, eight, in_loops

import epjax
from epjax.network.activation import identity, relu
from epjax.network.drive import Conv, Dense
from epjax.training import sharding
from epjax.training.accumulation import accumulate

CE = epjax.cost.cross_entropy
NET = epjax.models.mlp([9, 8, 10], gain=2.0)
B = 12


def inputs(dtype):
    params = jax.tree.map(lambda v: v.astype(dtype), jax.jit(lambda key: NET.init(key, (7,)))(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (B, 7), dtype)
    return params, x, jnp.arange(B) % 10, jax.random.split(jax.random.key(2), B)


METHODS = {
    "bp": epjax.backprop_value_and_grad(NET, CE),
    "sweep-centered": epjax.value_and_grad(NET, CE, equilibration=epjax.Sweep(2, tolerance=1e-9)),
    "sweep-random": epjax.value_and_grad(NET, CE, scheme="random"),
    "async-random": epjax.value_and_grad(NET, CE, scheme="random", equilibration=epjax.Async(4)),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_slices_give_the_gradient_of_the_batch(method):
    """Float64; `aux` too, example by example: outputs, and the residual of each phase where there is one."""
    arguments = inputs(jnp.float64)
    f = jax.jit(METHODS[method])
    whole = f(*arguments)
    sliced = jax.jit(accumulate(METHODS[method], 3))(*arguments)
    assert jax.tree.structure(sliced) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(sliced), jax.tree.leaves(whole), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    if method.endswith("random"):  # some signs differ, or the test would not see whose they are
        flipped = f(*arguments[:3], arguments[3][::-1])
        assert not np.allclose(flipped[1][1]["kernel"], whole[1][1]["kernel"], rtol=1e-6)


def test_one_slice_is_the_function_itself():
    assert accumulate(METHODS["bp"], 1) is METHODS["bp"]


@pytest.mark.parametrize(
    ("microbatches", "key", "message"),
    [
        (0, None, "microbatches must be at least 1, got 0"),
        (5, None, "microbatches must divide the batch of 12 examples, got 5"),
        (3, jax.random.key(0), "key must be None or one key for each of 12 examples, got shape"),
    ],
)
def test_what_cannot_be_sliced_is_refused(microbatches, key, message):
    params, x, y, _ = inputs(jnp.float32)
    with pytest.raises(ValueError, match=re.escape(message)):
        accumulate(METHODS["bp"], microbatches)(params, x, y, key)


@eight
@pytest.mark.parametrize("case", ["sweep-random"])
def test_a_training_in_slices_on_four_devices_is_that_of_one(case):
    """And its gradient is reduced once, after the loop over the slices."""
    mesh = sharding.make_mesh(devices=jax.devices()[:4])
    sliced = mesh_cases.train(case, mesh, microbatches=4)
    one = mesh_cases.train(case, sharding.make_mesh(devices=jax.devices()[:1]))
    mesh_cases.assert_same_training(sliced, one)
    found = collectives(sliced.program)
    assert not [name for name, *_ in found if name in in_loops(sliced.program)]
    assert sum(size > 1 for *_, size in found) <= mesh_cases.LEAVES


@eight
def test_a_batch_that_devices_and_slices_cannot_share_is_refused():
    message = "batch_size must be a multiple of devices times microbatches, 8 x 2 = 16, but is 24"
    with pytest.raises(ValueError, match=message):
        sharding.check_batch_size(24, sharding.make_mesh(), 2)


def test_a_slice_needs_its_own_memory_and_no_more_time():
    """Convolutions, whose kernel's gradient XLA for CPU has run 8 times slower inside a loop than outside it."""
    layers = epjax.Layer(Conv(16), relu), epjax.Layer(Conv(16, pool=True), relu), epjax.Layer(Dense(10), identity)
    net = epjax.Network(layers)
    params = jax.jit(lambda key: net.init(key, (24, 24, 3)))(jax.random.key(0))
    x, y = jax.random.normal(jax.random.key(1), (32, 24, 24, 3)), jnp.arange(32) % 10
    seconds, memory = {}, {}
    for N in (1, 4):
        program = jax.jit(accumulate(epjax.backprop_value_and_grad(net, CE), N)).lower(params, x, y, None).compile()
        memory[N] = program.memory_analysis().temp_size_in_bytes
        times = []
        for _ in range(6):
            start = time.process_time()
            jax.block_until_ready(program(params, x, y, None))
            times.append(time.process_time() - start)
        seconds[N] = min(times)
    assert memory[4] < 0.5 * memory[1]
    assert seconds[4] < 3 * seconds[1]
