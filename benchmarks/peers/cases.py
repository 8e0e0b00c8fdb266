"""The networks that peers are measured on, with weights and images."""

from math import sqrt

import jax
import numpy as np

from benchmarks.peers.harness import Case
from benchmarks.settings import batch

BATCH, WIDTH, DEPTH = 64, 128, 32


def conv(features: int, pool: bool) -> dict[str, object]:
    """3x3, ReLU, a 2x2 max-pool before it."""
    return {"kind": "conv", "features": features, "pool": pool, "relu": True}


def dense(features: int, relu: bool = True) -> dict[str, object]:
    """W h + b."""
    return {"kind": "dense", "features": features, "relu": relu}


def block(features: int) -> dict[str, object]:
    """h + W relu(V h)."""
    return {"kind": "block", "features": features, "relu": False}


def cases(quick: bool) -> list[Case]:
    """MLP, VGG5 x 1/4, 32 plain layers, 32 residual blocks; small ones with `quick`."""
    out = dense(10, relu=False)
    if quick:
        return [
            made("MLP 784-16-10", [dense(16), out], "mnist", 28, 4),
            made("2 residual blocks of 8", [dense(8), block(8), block(8), out], "mnist", 28, 4),
        ]
    vgg5 = [conv(32, False), conv(64, True), conv(128, True), conv(128, True), conv(128, True), out]
    return [
        made("MLP 784-512-512-10", [dense(512), dense(512), out], "mnist", 28, BATCH),
        made("VGG5 x 1/4", vgg5, "cifar10", 32, BATCH),
        made("32 plain layers of 128", [*[dense(WIDTH)] * (DEPTH - 1), out], "mnist", 28, BATCH),
        made("32 residual blocks of 128", [dense(WIDTH), *[block(WIDTH)] * DEPTH, out], "mnist", 28, BATCH),
    ]


def made(name: str, layers: list[dict[str, object]], data: str, size: int, count: int) -> Case:
    """Weights normal of variance 2 / fan_in, 1 / (n fan_in) for the second of n blocks; biases 0; labels modulo 10."""
    x, y, _ = batch(data, size, count)
    rng, blocks = np.random.default_rng(0), sum(layer["kind"] == "block" for layer in layers)
    shape, weights = x.shape[1:], []

    def normal(*sizes: int, gain: float = 2.0) -> np.ndarray:
        return rng.normal(0, sqrt(gain / np.prod(sizes[:-1])), sizes).astype(np.float32)

    for layer in layers:
        n = int(str(layer["features"]))
        bias = np.zeros(n, np.float32)
        if layer["kind"] == "conv":
            weights.append([normal(3, 3, shape[-1], n), bias])
            half = 2 if layer["pool"] else 1
            shape = (shape[0] // half, shape[1] // half, n)
        elif layer["kind"] == "block":
            weights.append([normal(n, n), bias, normal(n, n, gain=1 / blocks), bias])
        else:
            weights.append([normal(int(np.prod(shape)), n), bias])
            shape = (n,)
    images = np.asarray(x).reshape(count, -1) if layers[0]["kind"] == "dense" else np.asarray(x)
    return Case(name, layers, jax.tree.map(jax.numpy.asarray, weights), images, np.eye(10, dtype=np.float32)[y % 10])
