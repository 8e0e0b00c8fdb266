"""Oracle: float64 jax.grad of the same transformer put together by hand, and what a causal language model must be.

Catches an attention that sees the future, a position that is counted twice or not at all, indices that are rounded to
the precision of products or taken as numbers, a first layer whose indices are refused.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import epjax
from epjax.models.blocks import AttentionBlock, MLPBlock
from epjax.models.gpt import Logits, Tokens

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(autouse=True)
def usual_promotion():
    """Flax's attention mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


VOCAB, LENGTH, FEATURES, DEPTH, HEADS = 11, 6, 8, 2, 2


def make(**options):
    return epjax.models.gpt(VOCAB, LENGTH, **{"features": FEATURES, "depth": DEPTH, "heads": HEADS, **options})


def case(net, T=LENGTH):
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (T,))
    params = jax.tree.map(lambda v: 2.0 * v.astype(jnp.float64), params)
    x = jax.random.randint(jax.random.key(1), (3, T), 0, VOCAB)
    y = jnp.roll(x, -1, axis=1).at[:, -1].set(-1)
    return params, x, y


def by_hand(split):
    """The modules one after the other, and the mean cost over positions that count."""
    pair = (AttentionBlock(HEADS, causal=True), MLPBlock(4 * FEATURES))
    tokens, logits = Tokens(VOCAB, LENGTH, FEATURES), Logits(VOCAB)

    def cost(params, x, y):
        first, *middle, last = params
        if not split:
            middle = [theta[name] for theta in middle for name in ("AttentionBlock_0", "MLPBlock_0")]
        h = tokens.apply({"params": first}, x)
        for k, theta in enumerate(middle):
            h = pair[k % 2].apply({"params": theta}, h)
        told = jax.nn.log_softmax(logits.apply({"params": last}, h))
        counts = y >= 0
        picked = jnp.take_along_axis(told, jnp.where(counts, y, 0)[..., None], axis=-1)[..., 0]
        return -jnp.mean(jnp.sum(picked * counts, axis=1) / jnp.sum(counts, axis=1))

    return cost


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.fast
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("scheme", ["forward", "centered"])
def test_value_and_gradient_are_those_of_the_transformer(split, scheme):
    net = make(split=split)
    assert len(net) == 2 + DEPTH * (1 + split)
    params, x, y = case(net)
    value, exact = jax.value_and_grad(by_hand(split))(params, x, y)
    ep = epjax.value_and_grad(
        net, "cross_entropy", scheme=scheme, beta=1e-6, equilibration=epjax.Sweep(1, update="pgd")
    )
    (cost, _), grads = jax.jit(ep)(params, x, y)
    np.testing.assert_allclose(cost, value, rtol=1e-12)
    assert np.linalg.norm(flat(grads) - flat(exact)) < (1e-4 if scheme == "forward" else 1e-8) * np.linalg.norm(
        flat(exact)
    )


@pytest.mark.fast
def test_no_position_sees_a_later_one():
    net = make()
    params, x, _ = case(net)
    changed = x[0].at[3].set((x[0, 3] + 1) % VOCAB)
    before, after = net.forward(params, x[0])[-1], net.forward(params, changed)[-1]
    assert before.shape == (LENGTH, VOCAB)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert np.all(np.abs(np.asarray(before - after)[3:]).max(axis=1) > 1e-6)


@pytest.mark.fast
def test_a_class_with_marks_has_the_same_gradient():
    class GPT(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = epjax.state(Tokens(VOCAB, LENGTH, FEATURES)(x))
            for _ in range(DEPTH):
                h = epjax.state(AttentionBlock(HEADS, causal=True)(h))
                h = epjax.state(MLPBlock(4 * FEATURES)(h))
            return Logits(VOCAB)(h)

    net = make()
    params, x, y = case(net)
    names = ["Tokens_0", *(f"{kind}_{k}" for k in range(DEPTH) for kind in ("AttentionBlock", "MLPBlock")), "Logits_0"]
    named = dict(zip(names, params, strict=True))
    model = GPT()
    traced = epjax.from_function(lambda theta, x: model.apply({"params": theta}, x[None])[0], named, x[0])
    options = {"scheme": "forward", "beta": 1e-4, "equilibration": epjax.Sweep(1, update="pgd")}
    one = epjax.value_and_grad(net, "cross_entropy", **options)(params, x, y)[1]
    other = epjax.value_and_grad(traced, "cross_entropy", **options)(named, x, y)[1]
    np.testing.assert_allclose(flat(one), flat([other[name] for name in names]), rtol=1e-9, atol=1e-14)


@pytest.mark.fast
def test_a_short_text_is_taken_and_a_long_one_refused():
    net = make()
    params, x, _ = case(net)
    short = net.forward(params, x[0, :4])[-1]
    np.testing.assert_allclose(short, net.forward(params, x[0])[-1][:4], rtol=1e-12)
    with pytest.raises(ValueError, match="x must have at most 6 positions, the model's length, got 7"):
        net.forward(params, jnp.zeros(7, jnp.int32))


@pytest.mark.fast
@pytest.mark.parametrize("token", [-1, VOCAB, 255])
def test_a_token_outside_the_vocabulary_is_refused(token):
    """In a sentence where its value is known, by NaN where it is not: never another token's number."""
    net = make()
    params, x, y = case(net)
    x = x.at[1, 2].set(token)
    sentence = rf"x must hold indices 0..{VOCAB - 1}, got {token} at x\[1, 2\]"
    with pytest.raises(ValueError, match=sentence):
        epjax.value_and_grad(net, "cross_entropy")(params, x, y)
    with pytest.raises(ValueError, match=rf"got {token} at x\[2\]"):
        net.forward(params, x[1])
    (cost, _), _ = jax.jit(epjax.value_and_grad(net, "cross_entropy"))(params, x, y)
    assert np.isnan(cost)
    embed = epjax.from_flax([nn.Embed(7, 4), lambda h: h.reshape((h.shape[0], -1)), nn.Dense(3)])
    with pytest.raises(ValueError, match=rf"x must hold indices 0..6, got {token} at x\[2\]"):
        embed.forward(embed.init(jax.random.key(0), (5,)), jnp.zeros(5, jnp.int32).at[2].set(token))


@pytest.mark.fast
def test_indices_are_not_rounded_to_the_precision_of_products():
    """In bfloat16 999 and 1000 are the same number, and not the same token."""
    net = epjax.models.gpt(1001, 2, features=4, depth=1, heads=1, precision="bfloat16")
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (2,))
        outputs = [net.forward(params, jnp.array([token, 0], jnp.int32))[0] for token in (999, 1000)]
        rows = [params[0]["Embed_0"]["embedding"][token] + params[0]["place"][0] for token in (999, 1000)]
    for output, row in zip(outputs, rows, strict=True):
        np.testing.assert_allclose(output[0], row, rtol=0.02, atol=2e-3)
    assert np.abs(np.asarray(rows[0] - rows[1])).max() > 0.1


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_an_embedding_of_flax_is_a_first_layer(kind):
    if kind == "linen":
        modules = [nn.Embed(7, 4), nn.tanh, lambda h: h.reshape((h.shape[0], -1)), nn.Dense(3)]
    else:
        rngs = nnx.Rngs(0)
        modules = [
            nnx.Embed(7, 4, rngs=rngs),
            nnx.tanh,
            lambda h: h.reshape((h.shape[0], -1)),
            nnx.Linear(20, 3, rngs=rngs),
        ]
    net = epjax.from_flax(modules)
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (5,))
        x, y = jnp.arange(20).reshape(4, 5).astype(jnp.int32) % 7, jnp.arange(4, dtype=jnp.int32) % 3
        options = {"beta": 1e-3, "equilibration": epjax.Sweep(1, update="pgd")}
        one = epjax.value_and_grad(net, "cross_entropy", **options)(params, x, y)[1]
        other = epjax.backprop_value_and_grad(net, "cross_entropy")(params, x, y)[1]
    np.testing.assert_allclose(flat(one), flat(other), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"argnums must be 0 \(the parameters\) where x holds indices"):
        epjax.value_and_grad(net, "cross_entropy", argnums=1)(params, x, y)
    with pytest.raises(ValueError, match="x must hold indices, whole numbers, got float32 with fractions"):
        epjax.value_and_grad(net, "cross_entropy")(params, x.astype(jnp.float32) + 0.5, y)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"heads": 3}, "features must be a multiple of the 3 heads, got 8"),
    ],
)
def test_what_is_no_transformer_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
    with pytest.raises(ValueError, match="vocab must be at least 1, got 0"):
        epjax.models.gpt(0, 4)


@pytest.mark.parametrize(("spread", "centered", "forward"), [(0.5, 2e-7, 6e-6), (0.02, 0.09, 0.003)])
def test_how_far_a_nudge_may_go(spread, centered, forward, monkeypatch):
    """What docs/text.md says of states of size one and of small ones: centered at beta 0.05, one-sided at 5e-4."""
    monkeypatch.setattr(sys.modules["epjax.models.gpt"], "SPREAD", spread)
    net = epjax.models.gpt(65, 32, features=64, depth=2, heads=4)
    with jax.enable_x64(False):
        params = net.init(jax.random.key(0), (32,))
    params = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    x = jax.random.randint(jax.random.key(1), (4, 32), 0, 65)
    y = jnp.roll(x, -1, 1)
    exact = flat(epjax.backprop_value_and_grad(net, "cross_entropy")(params, x, y)[1])
    for scheme, beta, told in (("centered", 0.05, centered), ("forward", 5e-4, forward)):
        options = {"scheme": scheme, "beta": beta, "equilibration": epjax.Sweep(1, update="pgd")}
        found = flat(jax.jit(epjax.value_and_grad(net, "cross_entropy", **options))(params, x, y)[1])
        distance = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert told / 1.5 < distance < told * 1.5
