"""The networks of arXiv:2606.03584 and a multilayer perceptron."""

from collections.abc import Sequence
from itertools import groupby

from epjax.models.runs import run_of
from epjax.models.sizes import classes, scaled
from epjax.network import Layer, Network, Repeat
from epjax.network.activation import Activation, identity, relu
from epjax.network.drive import Conv, Dense
from epjax.network.precision import Precision


def mlp(
    sizes: Sequence[int],
    *,
    activation: Activation = relu,
    gain: float = 1.0,
    stacked: bool = False,
    precision: Precision = "float32",
) -> Network:
    """Dense layers of the given `sizes` (outputs only, the last is the number of classes), identity at the end.

    With `stacked` hidden layers as large as the one below are `epjax.Repeat`s.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be positive layer sizes, got {tuple(sizes)}")
    hidden: list[Layer | Repeat] = []
    for n, alike in groupby(sizes[:-1]):

        def layer(n: int = n) -> tuple[Layer, ...]:
            return (Layer(Dense(n, gain), activation),)

        hidden += [*layer(), *run_of(len(list(alike)) - 1, layer, stacked=stacked)]
    return Network((*hidden, Layer(Dense(sizes[-1], gain), identity)), precision)


def vgg5(
    num_classes: int = 10,
    *,
    width: float = 1.0,
    gain: float = 1.0,
    output_gain: float | None = None,
    precision: Precision = "float32",
) -> Network:
    """128, 256 P, 512 P, 512 P, 512 P, dense `num_classes`: L = 6, for 32x32 images. fan_in everywhere.

    P is a 2x2 max-pool. `width` multiplies the channels. `output_gain` (default: `gain`) is that of the output
    layer, 0.2 with squared error on ImageNet32. docs/method.md section 6.
    """
    channels = scaled((128, 256, 512, 512, 512), width)
    convs = [Layer(Conv(c, pool=k > 0, gain=gain)) for k, c in enumerate(channels)]
    output = Dense(classes(num_classes), gain if output_gain is None else output_gain)
    return Network((*convs, Layer(output, identity)), precision)


def vgg10(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    dense: int = 2048,
    gain: float = 1.0,
    precision: Precision = "float32",
    skip: bool = False,
) -> Network:
    """64 P, 128 P, 256, 256 P, 512, 512 P, 512, 512 P, dense 2048, dense `num_classes`: L = 10, for 224x224 images.

    62.7 M parameters at 1000 classes. Convolutions are drawn by fan_out = 9 C_out, dense layers by fan_in.
    `width` multiplies the channels; `dense` is the size of layer 9. With `skip`, learned 1x1 convolutions of
    stride 2 and 4 join layer 2 to layer 5 and layer 5 to layer 8, added to the drive. docs/method.md section 6.
    """
    channels = scaled((64, 128, 256, 256, 512, 512, 512, 512), width)
    pooled = (True, True, False, True, False, True, False, True)
    skips: dict[int, tuple[int, ...]] = {5: (2,), 8: (5,)} if skip else {}
    convs = [
        Layer(Conv(c, pool=p, gain=gain, fan="fan_out"), skips=skips.get(k, ()))
        for k, (c, p) in enumerate(zip(channels, pooled, strict=True), start=1)
    ]
    head = (Layer(Dense(dense, gain)), Layer(Dense(classes(num_classes), gain), identity))
    return Network((*convs, *head), precision)


def vgg10_skip(num_classes: int = 1000, **options: object) -> Network:
    """VGG10Skip: `vgg10` with its two skip connections."""
    return vgg10(num_classes, skip=True, **options)  # type: ignore[arg-type]
