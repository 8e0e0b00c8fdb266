"""What a system asks of its hardware, from a terminal: at its initialisation, on images.

python -m epjax.hardware --system resistive --sizes 128 10 --read-noise 1e-3 --out budget.png
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from epjax import models
from epjax.data import open_dataset
from epjax.extras import extra
from epjax.hardware.device import Device
from epjax.hardware.needs import budget
from epjax.systems import PCN, Hopfield, Oscillators, Resistive

with extra("train"):
    import tyro

Name = Literal["pcn", "hopfield", "resistive", "oscillators"]
SYSTEMS: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "pcn": lambda sizes: PCN(models.mlp(sizes)),
    "hopfield": Hopfield.dense,
    "resistive": lambda sizes: Resistive(sizes, input_gain=250.0),
    "oscillators": Oscillators,
}


def show(
    system: Name,
    sizes: tuple[int, ...] = (128, 10),
    data: str = "demo",
    images: int = 16,
    pixels: int = 28,
    cost: str = "squared_error",
    scheme: str = "centered",
    beta: float = 0.05,
    read_noise: float = 1e-3,
    reads: int = 1,
    mismatch: float = 0.0,
    weight_bits: float | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None,
) -> None:
    """Say whether hardware of this read noise can learn by EP, at which beta, and with how many bits.

    Args:
        system: The system that the chip is, as it is initialised.
        sizes: Units of the layers, the outputs last.
        data: Images, as after --data of `epjax train`.
        images: How many of them, drawn by --seed; noise averages out over them.
        pixels: Their width and height.
        cost: squared_error or cross_entropy.
        scheme: centered, forward, backward or random.
        beta: The nudging strength at which bits and noise are found.
        read_noise: A share of the RMS of a layer's state.
        reads: Reads that are averaged.
        mismatch: Standard deviation of the logarithm of a coupling's factor.
        weight_bits: Bits of a stored coupling; none: as it is.
        temperature: k_B T in the unit of the energy.
        seed: Draws the couplings, the chip and the images.
        out: Where a picture goes.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    dataset = open_dataset(data)
    _, transform = dataset.transforms(pixels)
    rng = np.random.default_rng(seed)
    examples = [dataset.train[int(i)] for i in rng.permutation(len(dataset.train))[:images]]
    x = jnp.asarray(np.stack([transform(example, rng) for example in examples]), jnp.float32) / 255
    y = jnp.asarray([example.label for example in examples], jnp.int32)
    device = Device(
        SYSTEMS[system](sizes),
        reads=reads,
        mismatch=mismatch,
        weight_bits=weight_bits,
        temperature=temperature,
        seed=seed,
    )
    params = device.init(jax.random.key(seed), x.shape[1:])
    found = budget(device, params, x, y, cost, beta=beta, read_noise=read_noise, scheme=scheme)
    print(f"{system} of {' '.join(map(str, sizes))}, {len(examples)} images ({dataset.origin}), {scheme}\n{found}")
    if out is not None:
        found.draw(out)
        print(f"the picture is in {out}")


def main(argv: Sequence[str] | None = None, prog: str = "python -m epjax.hardware") -> int:
    """The command."""
    try:
        tyro.cli(show, args=argv, prog=prog)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
