"""Anything that may be given to the public functions. Oracle: float64 `jax.grad` of the model in plain jax.

A call gives the gradient of `jax.grad`, NaN where a label of no class cannot be seen before the step is compiled, or
one sentence that is raised in this library. Catches another library's exception, a gradient that is silently wrong, a
NaN that nobody asked for. What was found once stands as a test of its own, at the end.
"""

import dataclasses
import traceback
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings

import epjax

PACKAGE = Path(epjax.__file__).parent
CE, SE = epjax.cost.cross_entropy, epjax.cost.squared_error
ONE_SENTENCE = 400
"""Characters."""

SMOOTH = {"tanh": jnp.tanh, "softplus": jax.nn.softplus, "sigmoid": jax.nn.sigmoid}
PROJECTING = {"relu": jax.nn.relu, "identity": epjax.activation.identity.phi}


COSTS = [CE, SE, "cross_entropy", "squared_error"]
SCHEMES = ["centered", "forward", "backward", "random", "holomorphic"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A call. `seed` draws parameters and input; all else is small and named."""

    seed: int
    model: str
    sizes: tuple[int, ...]
    activation: Any
    B: int
    x: str
    y: str
    beta: Any
    cost: Any
    entry: str
    compiled: bool
    options: dict[str, Any]


SHARES = {"value_and_grad": 50, "ep_loss": 30, "backprop_value_and_grad": 10, "diagnose": 10}
"""Of a hundred calls."""
WITH_ARGNUMS = ("value_and_grad", "backprop_value_and_grad")


def either(good, *bad):
    """Mostly one of `good`, one time in fifty one of `bad`."""
    return st.integers(0, 49).flatmap(lambda n: st.sampled_from(bad if n == 17 and bad else good))


@st.composite
def options(draw, entry):
    method = either(
        [epjax.Sweep(1, update="pgd"), epjax.Sweep(3, update="pgd"), epjax.Async(4, update="pgd")],
        None, epjax.Sweep(2), "sweep", "waltz", 3, epjax.Sync, epjax.Async(4),
    )  # fmt: skip
    every = {
        "scheme": either(SCHEMES, "sideways", None, 1),
        "points": either([1, 1, 1, 2, 3], 0, -1, 1.5, "2", None),
        "perturbation": either(["nudge", "nudge", "clamp"], "push", None),
        "errors": either(["carried"], "recomputed", "lost", None),
        "phases": either(["together", "sequential"], "both", None),
        "equilibration": method,
        "argnums": either([0, 1, (0, 1), (0,)], 2, None, "x"),
    }
    if entry not in WITH_ARGNUMS and draw(st.integers(0, 9)) < 9:
        del every["argnums"]
    return {
        name: draw(values) for name, values in every.items() if name == "equilibration" or draw(st.integers(0, 2)) == 0
    }


LABELS = (
    ["index", "int8", "uint8", "bool", "float", "column", "one-hot", "one-hot int", "soft"],
    "outside", "ignored", "half", "nan", "wide", "short", "maps", "list", "string", None,
)  # fmt: skip


def cases(entry, sizes, batches):
    """Calls of one public function with networks of these sizes on batches of these: a new size is a new program."""
    return st.builds(
        Case,
        seed=st.integers(0, 9),
        model=either(["Network", "linen", "nnx", "tied"], "training norm", "dropout", "list"),
        sizes=st.sampled_from(sizes),
        activation=either([*SMOOTH, *PROJECTING], "Swish", None, jax.nn.relu6),
        B=either(batches, 0),
        x=either(
            ["float32", "float64"], "uint8", "int32", "bool", "bfloat16", "float16", "complex64", "list", "narrow", None
        ),
        y=either(*LABELS),
        beta=either(
            [1e-4, "array", None, *([] if entry == "diagnose" else ["each"])],
            "each",
            0.0,
            -0.1,
            float("nan"),
            float("inf"),
            "0.1",
            "two",
        ),
        cost=either(COSTS, "hinge", None, 3, lambda h, y: h),
        entry=st.just(entry),
        compiled=st.sampled_from([False, False, True]),
        options=options(entry),
    )


def labels(case, C):
    """y, its target [B, C] in float64 where it has one, and whether that is so for every value."""
    random = np.random.default_rng(case.seed)
    index = random.integers(0, C, case.B)
    one_hot = np.eye(C)[index]
    soft = random.dirichlet(np.ones(C), case.B) if case.B else one_hot
    binary = index > 0
    found = {
        "index": (jnp.asarray(index, jnp.int32), one_hot),
        "int8": (jnp.asarray(index, jnp.int8), one_hot),
        "uint8": (index.astype(np.uint8), one_hot),
        "bool": (jnp.asarray(binary), np.eye(max(C, 2))[binary.astype(int)][:, :C]),
        "float": (jnp.asarray(index, jnp.float32), one_hot),
        "column": (jnp.asarray(index[:, None], jnp.int32), one_hot),
        "one-hot": (jnp.asarray(one_hot, jnp.float32), one_hot),
        "one-hot int": (jnp.asarray(one_hot, jnp.int32), one_hot),
        "soft": (jnp.asarray(soft, jnp.float64), soft),
        "outside": (jnp.asarray(index + C, jnp.int32), None),
        "ignored": (jnp.asarray(index * 0 - 1, jnp.int32), None),
        "half": (jnp.asarray(index + 0.5, jnp.float32), None),
        "nan": (jnp.full(case.B, jnp.nan, jnp.float32), None),
        "wide": (jnp.ones((case.B, C + 2), jnp.float32), None),
        "short": (jnp.zeros(case.B + 1, jnp.int32), None),
        "maps": (jnp.ones((case.B, C, 2), jnp.float32), None),
        "list": (index.tolist(), None),
        "string": ("cat", None),
        None: (None, None),
    }
    y, target = found[case.y]
    if C == 1 and case.y == "column":
        target = index[:, None].astype(float)  # [B, C], class weights
    return y, target


def build(case):
    """(model for the entry, its parameters, the same parameters as (kernel, bias) by layer, activations by layer)."""
    sizes = (2, *case.sizes)
    if case.model == "tied":
        sizes = (2, 2, 2, sizes[-1])
    L = len(sizes) - 1
    dtype = jnp.float64 if case.x == "float64" else jnp.float32
    random = np.random.default_rng(case.seed)
    plain = [
        (jnp.asarray(random.normal(size=(i, o)), dtype), jnp.asarray(random.normal(size=o), dtype))
        for i, o in pairwise(sizes)
    ]
    if case.model == "tied":
        plain[1] = plain[0]
    named = [{"kernel": w, "bias": b} for w, b in plain]
    hidden = case.activation
    function = {**SMOOTH, **PROJECTING}.get(hidden, jnp.tanh) if isinstance(hidden, str) else jnp.tanh
    if case.model == "Network":
        layers = [epjax.Layer(epjax.drive.Dense(o), hidden) for o in sizes[1:-1]]
        net = epjax.Network((*layers, epjax.Layer(epjax.drive.Dense(sizes[-1]), "identity")))
        return net, tuple(named), plain, function
    if case.model == "list":
        return [epjax.Layer(epjax.drive.Dense(o)) for o in sizes[1:]], tuple(named), plain, function
    between = [function] * (L - 1)
    if case.model == "nnx":
        modules = [nnx.Linear(i, o, rngs=nnx.Rngs(0)) for i, o in pairwise(sizes)]
        for module, (w, b) in zip(modules, plain, strict=True):
            module.kernel[...], module.bias[...] = w.astype(jnp.float32), b.astype(jnp.float32)
            nnx.update(module, jax.tree.map(lambda v: v.astype(dtype), nnx.state(module)))
        model = nnx.Sequential(*woven(modules, between))
        if case.entry == "ep_loss":
            return model, model, plain, function
        net = epjax.from_flax(model)
        return net, tuple(nnx.state(module, nnx.Param) for module in modules), plain, function
    modules = [nn.Dense(o) for o in sizes[1:]]
    if case.model == "tied":
        modules[1], named[1] = modules[0], {}
    model = nn.Sequential(woven(modules, between))
    if case.model in ("training norm", "dropout"):
        fault = {
            "training norm": nn.BatchNorm(use_running_average=False),
            "dropout": nn.Dropout(0.5, deterministic=False),
        }
        model = nn.Sequential([*model.layers, fault[case.model]])
        named.append(
            {"scale": jnp.ones(sizes[-1], dtype), "bias": jnp.ones(sizes[-1], dtype)} if "norm" in case.model else {}
        )
    if case.entry == "ep_loss":
        places = [i for i, module in enumerate(model.layers) if isinstance(module, nn.Module)]
        return model, {f"layers_{i}": p for i, p in zip(places, named, strict=True) if p}, plain, function
    return epjax.from_flax(model), tuple(named), plain, function


def woven(modules, between):
    pairs = zip(modules, [*between, None], strict=True)
    return [part for pair in pairs for part in pair if part is not None]


def inputs(case):
    x = np.random.default_rng(case.seed + 100).normal(size=(case.B, 2))
    if case.x == "list":
        return x.tolist()
    if case.x is None:
        return None
    return jnp.asarray(x[:, :1] if case.x == "narrow" else x).astype("float32" if case.x == "narrow" else case.x)


def strength(case):
    each = {
        "each": lambda: jnp.linspace(1e-4, 2e-4, case.B),
        "two": lambda: jnp.ones(7),
        "array": lambda: jnp.asarray(1e-4),
    }
    return each[case.beta]() if case.beta in each else case.beta


def call(case, C):
    """(value, output or None, gradient as a list of arrays); or whatever is raised on the way."""
    model, params, _, _ = build(case)
    x, y = inputs(case), labels(case, C)[0]
    beta, given = strength(case), dict(case.options)
    compile_it = jax.jit if case.compiled else lambda f: f
    key = jax.random.key(case.seed)
    if case.entry == "ep_loss":
        loss = epjax.ep_loss(model, case.cost, beta=beta, **given)
        if isinstance(params, nnx.Module):
            return nnx.value_and_grad(loss)(params, x, y, key)
        return compile_it(jax.value_and_grad(loss))(params, x, y, key)
    if case.entry == "backprop_value_and_grad":
        f = epjax.backprop_value_and_grad(model, case.cost, argnums=given.get("argnums", 0))
    elif case.entry == "diagnose":
        return epjax.diagnose(model, params, x, y, key=key, cost=case.cost, beta=beta, **given)
    else:
        f = epjax.value_and_grad(model, case.cost, beta=beta, **given)
    (value, _), grads = compile_it(f)(params, x, y, key)
    return value, grads


def exact(case, target):
    """Value and gradient in float64, of parameters and input, written without the library."""
    _, _, plain, phi = build(case)
    x = jnp.asarray(np.asarray(inputs(case), np.float64))
    plain = [(w.astype(jnp.float64), b.astype(jnp.float64)) for w, b in plain]
    if case.model == "tied":
        plain = [plain[0], *plain[2:]]
    squares = case.cost in (SE, "squared_error")

    def mean_cost(plain, x):
        layers = [plain[0], *plain] if case.model == "tied" else plain
        h = x
        for k, (w, b) in enumerate(layers):
            h = h @ w + b
            h = phi(h) if k < len(layers) - 1 else h
        if squares:
            return 0.5 * jnp.sum((h - target) ** 2, axis=1).mean()
        return -jnp.sum(target * jax.nn.log_softmax(h), axis=1).mean()

    value, (of_params, of_x) = jax.value_and_grad(mean_cost, (0, 1))(plain, x)
    of_params = [{"bias": b, "kernel": w} for w, b in of_params]
    argnums = case.options.get("argnums", 0)
    both = {0: of_params, 1: of_x}
    return value, both[argnums] if isinstance(argnums, int) else tuple(both[i] for i in argnums)


def is_ours(error):
    """Raised by a line of this library, one sentence long."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    told = str(error).split("\n---")[0]  # what jax adds to every message
    raised_here = PACKAGE in Path(last.filename).parents and (last.line or "").startswith("raise ")
    return raised_here and len(told) < ONE_SENTENCE and "\n" not in told.strip()


def try_case(case):
    """What a call gives, held against what it may give; how it ended, in a word."""
    C = case.sizes[-1]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, target = labels(case, C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = call(case, C)
            except (ValueError, TypeError) as error:
                if is_sound(case) or not (is_ours(error) or jax_looked_first(case, error)):
                    raise
                return "refused"
        if case.entry == "diagnose":
            assert found.verdict in ("good", "no gradient", "not settled", "beta too large", "drowned in rounding"), (
                found
            )
            return found.verdict
        value, grads = found
        leaves = jax.tree.leaves(grads)
        if target is None:
            assert case.compiled, "labels of no class were taken"
            assert np.isnan(value)
            assert any(np.isnan(leaf).any() for leaf in leaves)
            return "NaN"
        if np.abs(target.sum(axis=1) - 1).max() > 1e-3 and case.cost in (CE, "cross_entropy"):
            return "not a distribution, within jit"
        expected, of = exact(case, target)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        if case.options.get("perturbation") == "clamp" and case.entry != "backprop_value_and_grad":
            assert all(np.isfinite(leaf).all() for leaf in leaves)
            return "clamped"  # the gradient of a held output is another one
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of))
        for leaf, e in zip(leaves, jax.tree.leaves(of), strict=True):
            np.testing.assert_allclose(leaf, e, rtol=0, atol=tolerance(case) * scale + 1e-6)
        return "right"


def is_sound(case):
    """Whether nothing is there to be refused."""
    given, C = case.options, case.sizes[-1]
    method, scheme = given["equilibration"], given.get("scheme", "centered")
    fine = (
        case.model in ("Network", "linen", "nnx", "tied"),
        case.activation in [*SMOOTH, *PROJECTING],
        case.B > 0,
        case.x in ("float32", "float64"),
        case.y in LABELS[0] and not (C == 1 and case.y in ("bool", "column")),
        case.beta in (1e-4, "array", None) or (case.beta == "each" and case.entry != "diagnose"),
        case.cost in COSTS,
        scheme in SCHEMES and not (scheme == "holomorphic" and case.activation == "relu"),
        given.get("points", 1) == 1 or (given["points"] in (2, 3) and scheme in ("centered", "holomorphic")),
        given.get("perturbation", "nudge") in ("nudge", "clamp"),
        given.get("errors", "carried") in ("carried", "recomputed"),
        given.get("phases", "together") in ("together", "sequential"),
        given.get("argnums", 0) in (0, 1, (0, 1), (0,)),
        "argnums" not in given or case.entry in WITH_ARGNUMS,
        (method == "sweep" and case.activation in PROJECTING) or getattr(method, "update", "") == "pgd",
    )
    return all(fine)


def tolerance(case):
    """Of beta at most 6e-4 and of rounding."""
    if case.options.get("errors") == "recomputed" and (case.x != "float64" or case.beta is None):
        return 0.3  # rounding of a state beside beta, or the usual beta of recomputed errors
    return 1e-2


def jax_looked_first(case, error):
    """`jax.jit` and `jax.grad` refuse what is no array before the library sees it."""
    no_arrays = case.x in ("list", None) or case.y in ("list", "string", None) or case.beta == "0.1"
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return (no_arrays and not any(PACKAGE in Path(name).parents for name in frames)) or case.x == "complex64"


@pytest.fixture
def lightly_compiled():
    """Less of XLA's time for programs that run once, on a handful of numbers."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


CALM = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def try_many(calls, *strategy):
    @settings(CALM, max_examples=calls)
    @given(cases(*strategy))
    def each(case):
        try_case(case)

    each()


@pytest.mark.usefixtures("lightly_compiled")
@pytest.mark.parametrize(("entry", "calls"), SHARES.items())
def test_a_hundred_calls(entry, calls):
    try_many(calls, entry, [(3, 2)], [3])


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "calls"), SHARES.items())
def test_two_thousand_calls(entry, calls):
    try_many(20 * calls, entry, [(2,), (1,), (3, 2), (2, 3), (3, 2, 3)], [1, 3])


def small(**options):
    """A call that is sound but for what is given."""
    fine = {"seed": 0, "model": "Network", "sizes": (3, 2), "activation": "tanh", "B": 3, "x": "float32", "y": "index"}
    fine |= {"beta": 1e-4, "cost": CE, "entry": "value_and_grad", "compiled": False}
    fields = {name: options.pop(name) for name in list(options) if name in fine}
    return Case(**{**fine, **fields}, options={"equilibration": epjax.Sweep(1, update="pgd"), **options})


@pytest.mark.parametrize(
    ("found", "how"),
    [
        ({"points": 1.5}, "refused"),
        ({"beta": None}, "right"),
        ({"beta": "0.1", "entry": "ep_loss"}, "refused"),
        ({"beta": "each", "entry": "diagnose"}, "refused"),
        ({"argnums": 1, "entry": "diagnose"}, "refused"),
        ({"argnums": 0, "entry": "ep_loss"}, "refused"),
        ({"cost": "cross_entropy", "entry": "diagnose"}, "good"),
        ({"equilibration": "sweep", "activation": "relu", "entry": "diagnose"}, "good"),
        ({"y": "one-hot int"}, "right"),
        ({"y": "outside", "compiled": True}, "NaN"),
        ({"model": "training norm", "entry": "ep_loss"}, "refused"),
        ({"x": "uint8"}, "refused"),
    ],
)
def test_what_was_found_once(found, how):
    """Another library's words, a gradient that was silently wrong, a refusal of what is sound."""
    assert try_case(small(**found)) == how
