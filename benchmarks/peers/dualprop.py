"""Dual Propagation: its Lagrangian form, alpha = 0.5 (centered), beta = 1, one pass down through the layers.

The repository is a program, no package: its models are read from a checkout, without the data loaders beside them.
"""

import importlib.util
import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

BETA, ALPHA, PASSES = 1.0, 0.5, 1


def steps(case):
    """The states of its training step, and the gradient of its objective."""
    kinds = [layer["kind"] for layer in case.layers]
    if "block" in kinds:
        raise ValueError("its states belong to plain convolutions and dense layers, it has no residual blocks")
    convs, dense = kinds.count("conv"), kinds.count("dense")
    net = _models().cnn_dualprop_Lagr_ff(
        loss=lambda logits, y: optax.softmax_cross_entropy(logits, y).sum(),
        ConvLayer=nn.Conv,
        DenseLayer=nn.Dense,
        act=nn.relu,
        num_classes=case.y.shape[-1],
        beta=BETA,
        alpha=ALPHA,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        kernels=[(3, 3)] * convs,
        strides=[1] * convs,
        mp=[layer.get("pool", False) for layer in case.layers[:convs]],
        features=[w[-1].shape[0] for w in case.weights[:convs]],
        dense_features=[w[-1].shape[0] for w in case.weights[convs:]],
        inference_sequence="fwbwK",
        inference_passes_nudged=PASSES,
    )
    shapes = jax.eval_shape(net.init, jax.random.key(0), case.x)["params"]
    names = _sorted(shapes)
    assert len(names) == convs + dense

    def step(weights, x, y):
        params = {}
        for path, w in zip(names, weights, strict=True):
            at = params
            for part in path[:-1]:
                at = at.setdefault(part, {})
            at[path[-1]] = {"kernel": w[0], "bias": w[1]}
        plus, minus = net.apply({"params": params}, x, y, jax.random.key(0), method="infer_states_train")
        grads = jax.grad(lambda p: net.apply({"params": p}, plus, minus, method="get_J"))(params)
        return [[_at(grads, path)["kernel"], _at(grads, path)["bias"]] for path in names]

    return {f"Lagrangian, alpha {ALPHA}, beta {BETA:g}, {PASSES} pass": step}


def _models():
    path = Path(os.environ["PEER_CHECKOUT"]) / "src" / "models.py"
    spec = importlib.util.spec_from_file_location("dualprop_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sorted(shapes):
    """Paths to the layers, in order: convolutions c00, c01, ..., then dense d00, d01, ..."""
    found = []
    for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        words = tuple(key.key for key in path)
        if words[-1] == "kernel":
            found.append(words[:-1])
    order = [next(w for w in words if w[0] in "cd" and w[1:].isdigit()) for words in found]
    return [words for _, words in sorted(zip(order, found, strict=True))]


def _at(tree, path):
    for part in path:
        tree = tree[part]
    return tree
