"""A scan with marks as a run of equal layers. Oracles: the same function as a loop in Python, `jax.grad` in float64.

Catches a run that is another network than its steps one by one: steps in the wrong order, a constant or an index of
another step, a state that the first or the last step should share with what is around it, a scan taken for a run that
is none, a program that grows with depth, gradients of another structure than the function's parameters.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import epjax
from epjax import Repeat, state
from epjax.network import unrolled
from epjax.training import sharding

CE = epjax.cost.cross_entropy
N = 5
Y = jnp.array([0, 1, 2, 1])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def weights(n=N):
    return {
        "in": normal(0, 5, 4),
        "w": 0.5 * normal(1, n, 4, 4),
        "v": 0.5 * normal(2, n, 4, 4),
        "one": 0.5 * normal(3, 4, 4),
        "out": normal(4, 4, 3),
    }


X = (4, 5)


def close(found, wanted, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.abs(b).max()), 1e-3))


def mean_cost(f, params, x, y):
    return jnp.mean(jax.vmap(CE)(jax.vmap(partial(f, params))(x), y))


def in_python(f, h, xs=None, length=None, reverse=False):
    """`lax.scan` as a loop."""
    n = length or len(jax.tree.leaves(xs)[0])
    rows = {}
    for i in reversed(range(n)) if reverse else range(n):
        h, rows[i] = f(h, jax.tree.map(lambda v, i=i: v[i], xs))
    return h, jax.tree.map(lambda *v: jnp.stack(v), *(rows[i] for i in range(n)))


def runs(net):
    return [layer.n for layer in net.layers if isinstance(layer, Repeat)]


def check(f, params, x, wanted, depth, **options):
    """The network of f with a scan beside that with the loop, and beside jax.grad: gradients and states' number."""
    net, loop = (epjax.from_function(partial(f, scan), params, x[0]) for scan in (lax.scan, in_python))
    assert runs(net) == wanted
    assert runs(loop) == []
    assert net.depth == loop.depth == len(loop) == depth
    options = {"beta": 0.05, **options}
    (cost, aux), grads = jax.jit(epjax.value_and_grad(net, CE, **options))(params, x, Y, None)
    (same, other), by_loop = jax.jit(epjax.value_and_grad(loop, CE, **options))(params, x, Y, None)
    close((cost, aux.output, grads), (same, other.output, by_loop), 1e-10)
    np.testing.assert_allclose(aux.solution.displacement, other.solution.displacement, rtol=1e-9)
    small = jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-6)))(params, x, Y)
    close(small, jax.grad(partial(mean_cost, partial(f, lax.scan)))(params, x, Y), 1e-5)
    return net


def block(h, w):
    return state(h + jnp.tanh(h @ w), "block"), None


def plain(scan, p, x, **options):
    return scan(block, state(x @ p["in"]), p["w"], **options)[0] @ p["out"]


def of_relu(scan, p, x):
    h, _ = scan(lambda h, w: (state(jax.nn.relu(h @ w)), None), state(jax.nn.relu(x @ p["in"])), 2 * p["w"][0:])
    return h @ p["out"]


def of_pairs(scan, p, x):
    """Attention-like: the second layer of a unit takes the first and what the unit takes."""

    def pair(h, at):
        w, v = at
        inner = state(jnp.tanh(h @ w), "inner")
        return state(h + jnp.tanh(inner @ v) * inner, "outer"), None

    return scan(pair, state(x @ p["in"]), (p["w"], p["v"]))[0] @ p["out"]


def with_constants(scan, p, x):
    """A mask that is closed over, one that is computed, an index of the step."""
    mask, computed = jnp.array([1, 0, 1, 1], x.dtype), jnp.cos(jnp.arange(4, dtype=x.dtype))

    def step(h, at):
        w, i = at
        return state(h + mask * jnp.tanh(h @ w + computed / (1 + i))), None

    return scan(step, state(x @ p["in"]), (p["w"], jnp.arange(N)))[0] @ p["out"]


def of_a_list(scan, p, x):
    """Blocks that the parameters hold one by one, stacked in the function."""
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *({"w": p[name], "u": p[name][0]} for name in ("one", "w0", "w1")))
    h, _ = scan(lambda h, b: (state(h + jnp.tanh(h @ b["w"] + b["u"])), None), state(x @ p["in"]), stacked)
    return h @ p["out"]


def with_what_nobody_reads(scan, p, x):
    """A carry and an output of each step that nobody reads, a value from below beside it."""

    def step(carry, w):
        h, total = carry
        return (state(jnp.tanh(h @ w)), total + h.sum()), h

    return scan(step, (state(x @ p["in"]), x.sum()), p["w"])[0][0] @ p["out"]


def written_in_calls(scan, p, x):
    @jax.jit
    def through(h, w):
        return scan(jax.checkpoint(block), h, w)[0]

    return through(state(x @ p["in"]), p["w"]) @ p["out"]


def two_runs(scan, p, x):
    """One after the other, what is below both used above them."""
    first = state(x @ p["in"])
    h, _ = scan(block, first, p["w"])
    h, _ = scan(block, h, p["v"])
    return (h + first) @ p["out"]


def nested(scan, p, x):
    """A scan in a step is written out within the unit."""

    def step(h, at):
        return scan(block, h, jnp.stack(at))

    return scan(step, state(x @ p["in"]), (p["w"], p["v"]))[0] @ p["out"]


RUNS = {
    "plain": (plain, [N], N + 2),
    "backwards": (partial(plain, reverse=True), [N], N + 2),
    "constants": (with_constants, [N], N + 2),
    "pairs": (of_pairs, [N], 2 * N + 2),
    "unread": (with_what_nobody_reads, [N], N + 2),
    "calls": (written_in_calls, [N], N + 2),
    "two": (two_runs, [N, N], 2 * N + 2),
    "first step": (lambda scan, p, x: scan(block, x @ p["in"], p["w"])[0] @ p["out"], [N - 1], N + 1),
    "first from parameters": (
        lambda scan, p, x: scan(block, p["one"][0], p["w"])[0] @ p["out"] + x[:3],
        [N - 1],
        N + 1,
    ),
    "last step": (lambda scan, p, x: scan(block, state(x @ p["in"]), p["w"])[0][None, :3][0], [N], N + 2),
    "output": (lambda scan, p, x: scan(block, state(x @ p["in"]), p["w"])[0], [N - 1], N + 1),
    "of the input": (lambda scan, p, x: scan(block, x[:4] * 1.0, p["w"])[0] @ p["out"], [N - 1], N + 1),
    "the input": (lambda scan, p, x: scan(block, x, p["square"])[0] @ p["wide"], [N], N + 1),
    "nested": (nested, [N], 2 * N + 2),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_scan_over_parameters_is_a_run(name, wide):
    f, wanted, depth = RUNS[name]
    extra = {"square": 0.5 * normal(8, N, 5, 5), "wide": normal(9, 5, 3)} if name == "the input" else {}
    check(f, weights() | extra, normal(7, *X), wanted, depth)


def test_a_rectifier_is_the_projection_of_each_layer(wide):
    params, x = weights(), normal(7, *X)

    def f(scan, p, x):
        return scan(lambda h, w: (state(jax.nn.relu(h @ w)), None), state(x @ p["in"]), p["w"])[0] @ p["out"]

    for options in ({}, {"scheme": "forward"}, {"equilibration": epjax.Sweep(3)}, {"phases": "sequential"}):
        net = check(f, params, x, [N], N + 2, **options)
    assert net.layers[1].unit[0].activation is epjax.activation.relu


def test_blocks_that_are_stacked_in_the_function(wide):
    params = weights() | {"w0": 0.5 * normal(8, 4, 4), "w1": 0.5 * normal(9, 4, 4)}
    check(of_a_list, params, normal(7, *X), [3], 5)


def counting(scan, p, x):
    return scan(lambda at, _: ((state(jnp.tanh(at[0] @ p["w"][at[1]])), at[1] + 1), None), (x @ p["in"], 0), None, N)[
        0
    ][0]


NO_RUNS = {
    "what each step gives is read": lambda scan, p, x: (lambda h, rows: h @ p["out"] + rows.sum())(
        *scan(lambda h, w: (state(jnp.tanh(h @ w)), h.sum()), state(x @ p["in"]), p["w"])
    ),
    "a counter in the carry": counting,
    "over data": lambda scan, p, x: (
        scan(lambda h, v: (state(jnp.tanh(h @ p["one"] + v)), None), state(p["in"][0]), x)[0] @ p["out"]
    ),
    "one weight for all": lambda scan, p, x: (
        scan(lambda h, _: (state(jnp.tanh(h @ p["one"])), None), state(x @ p["in"]), None, N)[0] @ p["out"]
    ),
    "a skip from below": lambda scan, p, x: (
        lambda below: scan(lambda h, w: (state(jnp.tanh(h @ w) + below), None), below, p["w"])[0] @ p["out"]
    )(state(x @ p["in"])),
    "the carry is no state": lambda scan, p, x: (
        scan(lambda h, w: (h + state(jnp.tanh(h @ w)), None), state(x @ p["in"]), p["w"])[0] @ p["out"]
    ),
    "weights computed": lambda scan, p, x: scan(block, state(x @ p["in"]), jnp.tanh(p["w"]))[0] @ p["out"],
}


@pytest.mark.parametrize("name", NO_RUNS)
def test_any_other_scan_is_written_out(name, wide):
    f = NO_RUNS[name]
    depth = len(epjax.from_function(partial(f, in_python), weights(), normal(7, 5)))
    check(f, weights(), normal(7, *X), [], depth)


@pytest.mark.fast
def test_the_program_does_not_grow_with_depth():
    """Neither the estimate's nor backpropagation's; written out it does."""

    def size(n, make=epjax.value_and_grad, scan=lax.scan):
        params = {"in": (5, 4), "w": (n, 4, 4), "v": (n, 4, 4), "out": (4, 3)}
        params = {name: jnp.zeros(shape, jnp.float32) for name, shape in params.items()}
        x, y = jnp.zeros((4, 5), jnp.float32), jnp.zeros(4, jnp.int32)
        net = epjax.from_function(partial(of_pairs, scan), params, x[0])
        return str(jax.make_jaxpr(make(net, CE))(params, x, y)).count(" = ")

    assert size(32) == size(4)
    assert size(32, epjax.backprop_value_and_grad) == size(4, epjax.backprop_value_and_grad)
    assert size(8, scan=in_python) > 1.5 * size(4, scan=in_python)


def test_every_way_of_asking(wide):
    """Even/odd updates, diagnosis layer by layer, predictive coding's own, the input's gradient, complex strengths."""
    params, x = weights(), normal(7, *X)
    net, loop = (epjax.from_function(partial(of_pairs, scan), params, x[0]) for scan in (lax.scan, in_python))
    single = unrolled(net)
    assert [single.sources(k) for k in range(1, 6)] == [loop.sources(k) for k in range(1, 6)]
    check(plain, params, x, [N], N + 2, equilibration=epjax.Async(N))
    check(of_pairs, params, x, [N], 2 * N + 2, scheme="holomorphic", points=2)
    report = epjax.diagnose(net, params, x, Y)
    assert len(report.layers) == net.depth
    assert min(layer.cosine for layer in report.layers) > 0.9999
    optimised = epjax.pc.error_optimisation_value_and_grad(net, CE, steps=2)(params, x, Y, None)[1]
    close(optimised, epjax.pc.error_optimisation_value_and_grad(loop, CE, steps=2)(params, x, Y, None)[1], 1e-10)
    of_x = jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-4), argnums=1))(params, x, Y)
    close(of_x, jax.grad(partial(mean_cost, partial(of_pairs, lax.scan)), argnums=1)(params, x, Y), 1e-6)
    inside = jax.jit(
        lambda p, x: jax.grad(epjax.ep_loss(epjax.from_function(partial(of_pairs, lax.scan), p, x[0]), CE))(p, x, Y)
    )
    close(inside(params, x), jax.grad(epjax.ep_loss(net, CE))(params, x, Y), 1e-10)


def test_a_table_counts_every_layer(wide):
    params, x = weights(), normal(7, *X)
    net, loop = (epjax.from_function(partial(of_pairs, scan), params, x[0]) for scan in (lax.scan, in_python))
    assert f"{N} x inner + outer" in repr(net)
    states = net.forward(params, x[0])
    assert [v.shape for v in states[1].units] == [(N, 4), (N, 4)]
    flat = loop.forward(params, x[0])
    close((states[0], [v for one in states[1].laid_out() for v in one]), (flat[0], list(flat[1:-1])), 1e-12)
    E = epjax.energy.energy(net, net.spread(params), x[0], jax.tree.map(lambda v: 1.1 * v, states))
    np.testing.assert_allclose(
        E, epjax.energy.energy(loop, loop.spread(params), x[0], jax.tree.map(lambda v: 1.1 * v, flat)), rtol=1e-12
    )
    assert f" {2 * N * 16} " in net.summary((5,)).splitlines()[4]


def test_traced_in_one_dtype_and_used_in_others(wide):
    """Constants and indices of the steps, too; products rounded to tf32 and bfloat16 leave indices whole."""
    params, x = weights(), normal(7, *X)
    single, x32 = jax.tree.map(jnp.float32, (params, x))
    f = partial(with_constants, lax.scan)
    net = epjax.from_function(f, single, x32[0])
    exact = jax.grad(partial(mean_cost, f))(params, x, Y)
    close(jax.jit(epjax.value_and_grad(net, CE, beta=1e-4))(params, x, Y, None)[1], exact, 1e-5)
    for precision in ("tf32", "bfloat16"):
        low = epjax.from_function(f, single, x32[0], precision=precision)
        close(jax.jit(epjax.value_and_grad(low, CE))(single, x32, Y, None)[1], jax.tree.map(jnp.float32, exact), 0.1)


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
def test_what_a_function_keeps_a_run_keeps(policy, wide):
    """`jax.checkpoint` around a block, of marks, constants and an index, is that of the run."""

    def kept(scan, p, x):
        over = lambda step, h, xs: scan(jax.checkpoint(step, policy=policy), h, xs)  # noqa: E731
        return with_constants(over, p, x)

    net = check(kept, weights(), normal(7, *X), [N], N + 2)
    assert net.layers[1].checkpoint is (policy or True)
    plain_net = epjax.from_function(partial(plain, lax.scan), weights(), normal(7, 5))
    assert plain_net.layers[1].checkpoint is False


class Block(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return h + nn.Dense(4)(nn.relu(nn.Dense(6)(h))), None


class Scanned(nn.Module):
    """`nn.scan` over blocks; axis 1 holds the layers of one of them."""

    axis: int = 0

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(nn.remat(Block), variable_axes={"params": self.axis}, split_rngs={"params": True}, length=N)
        return nn.Dense(3)(blocks()(nn.Dense(4)(x), None)[0])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_linen_model_with_scan(axis, wide):
    """Every module of a block is a layer, and the block's sum is one: the model's parameters stay stacked."""
    x, model = normal(7, *X), Scanned(axis)
    params = jax.tree.map(jnp.float64, jax.jit(model.init)(jax.random.key(0), x)["params"])
    net = epjax.from_flax(model, x[0])
    assert (runs(net), net.depth) == ([N], 3 * N + 2)
    assert net.layers[1].checkpoint is True
    assert [layer.activation.name for layer in net.layers[1].unit] == ["relu", "identity", "identity"]

    def exact(p):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": p}, x), Y).mean()

    close(jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-4)))(params, x, Y), jax.jit(jax.grad(exact))(params), 1e-5)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, h):
        return h + self.down(nnx.relu(self.up(h)))


class NNXModel(nnx.Module):
    """Blocks made by `nnx.vmap`, gone through by `nnx.scan`."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=N)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NNXBlock(rngs)

        self.first, self.blocks, self.last = nnx.Linear(5, 4, rngs=rngs), make(rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(block, h):
            return block(h)

        return self.last(through(self.blocks, self.first(x)))


def test_an_nnx_model_with_scan(wide):
    model, x = NNXModel(nnx.Rngs(0)), normal(7, *X)
    nnx.update(model, jax.tree.map(jnp.float64, nnx.state(model)))
    net = epjax.from_flax(model, x[0])
    assert (runs(net), net.depth) == ([N], 3 * N + 2)
    cost = optax.softmax_cross_entropy_with_integer_labels
    exact = nnx.grad(lambda model, x, y: cost(model(x), y).mean())(model, x, Y)
    close(nnx.jit(nnx.grad(epjax.ep_loss(net, CE, beta=1e-4)))(model, x, Y), exact, 1e-5)


class Rectified(nn.Module):
    """A rectifier after the module of a block, or before it."""

    before: bool

    @nn.compact
    def __call__(self, h, _):
        return (nn.Dense(4)(nn.relu(h)) if self.before else nn.relu(nn.Dense(4)(h))), None


class Rectifying(nn.Module):
    before: bool

    @nn.compact
    def __call__(self, x):
        kind = nn.scan(Rectified, variable_axes={"params": 0}, split_rngs={"params": True}, length=N)
        h, _ = kind(self.before)(nn.Dense(4)(x), None)
        return nn.Dense(3)(nn.relu(h) if self.before else h)


@pytest.mark.parametrize("before", [False, True])
def test_a_rectifier_after_a_module_is_its_layer_s_wherever_it_stands(before, wide):
    """In the block of the next step too: then the scan is written out, for a run would have it inside of a layer."""
    x, model = normal(7, *X), Rectifying(before)
    params = jax.tree.map(jnp.float64, jax.jit(model.init)(jax.random.key(0), x)["params"])
    net = epjax.from_flax(model, x[0])
    assert runs(net) == ([] if before else [N])
    hidden = [layer.activation.name for layer in unrolled(net).layers]
    assert hidden == ["relu" if before else "identity", *["relu"] * N, "identity"]

    def exact(p):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": p}, x), Y).mean()

    close(jax.jit(jax.grad(epjax.ep_loss(net, CE, beta=1e-6)))(params, x, Y), jax.jit(jax.grad(exact))(params), 1e-5)


def test_a_diagnosis_where_the_first_step_stands_by_itself(wide):
    """It reads all of the stack: the parameters are told of there."""
    params, x = weights(), normal(7, *X)
    f = RUNS["first step"][0]
    report = epjax.diagnose(epjax.from_function(partial(f, lax.scan), params, x[0]), params, x, Y)
    assert len(report.layers) == N + 1
    assert report.cosine > 0.9999
    assert [layer.cosine is None for layer in report.layers] == [False, *[True] * (N - 1), False]


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_one_device_against_eight():
    """A stack of the user's own, cut into slices where it is large."""
    params = jax.tree.map(lambda v: v.astype(jnp.float32), {"in": jnp.ones((5, 64)) / 5, "out": jnp.ones((64, 3)) / 64})
    params["w"] = 0.1 * jax.random.normal(jax.random.key(0), (8, 64, 64), jnp.float32)
    x, y = jax.random.normal(jax.random.key(1), (16, 5), jnp.float32), jnp.arange(16) % 3
    net = epjax.from_function(partial(plain, lax.scan), params, x[0])
    assert runs(net) == [8]
    estimate = epjax.value_and_grad(net, CE, beta=0.01)
    mesh = sharding.make_mesh(4)
    placed = sharding.state_shardings(mesh, params)
    assert any(placed["w"].spec)
    one = jax.jit(estimate)(params, x, y)
    many = jax.jit(sharding.per_device(estimate, mesh))(jax.device_put(params, placed), x, y)
    close((many[0][0], many[1]), (one[0][0], one[1]), 1e-4)
