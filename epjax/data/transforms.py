"""What happens to one image: decoded, cropped, flipped; uint8 in and out. Normalisation belongs to the device.

Every resampling is Pillow's bilinear filter, whose support grows with the reduction: it is antialiased.
"""

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image

Augmentation = Literal["resized", "random", "pad", "none"]

_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


class BadImage(ValueError):
    """An image that cannot be read or decoded; the message names it and says why."""


class Transform(Protocol):
    """An example and its own random generator -> uint8 [H, W, C] of the fixed `shape`; picklable."""

    @property
    def shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    def __call__(self, example: Any, rng: np.random.Generator) -> np.ndarray: ...  # noqa: D102


def decode(example: Any, channels: int = 3) -> Image.Image:
    """The image of an Example, as RGB (channels 3) or gray (channels 1).

    Colour space and file type are read from the bytes, not from the name: CMYK JPEGs and PNGs under .JPEG names are
    converted, transparency is dropped, the EXIF orientation is ignored. Raises BadImage naming the file.
    """
    try:
        if isinstance(example.image, np.ndarray):
            image = Image.fromarray(example.image.squeeze(-1) if example.image.shape[-1] == 1 else example.image)
        elif not example.image:
            raise ValueError("it is empty (zero bytes)")
        else:
            image = Image.open(io.BytesIO(example.image))
        image.load()  # Decodes: what follows cannot fail, and `convert` would copy what needs no conversion.
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)
    except Image.UnidentifiedImageError:
        raise BadImage(f"{example.name} cannot be decoded: its {len(example.image)} bytes are no image") from None
    except _UNDECODABLE as error:
        raise BadImage(f"{example.name} cannot be decoded: {error}") from None


def _pixels(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _maybe_flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _resize(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


@dataclass(frozen=True)
class _Square:
    """Fields shared by all transforms: the output is uint8 [size, size, channels]."""

    size: int
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the output."""
        return (self.size, self.size, self.channels)


@dataclass(frozen=True)
class RandomResizedCropFlip(_Square):
    """A random part of the image, resized to size x size and mirrored with probability 1/2.

    Area ~ U(scale) of the image, aspect ratio log-uniform in `ratio`, position uniform. Where ten draws do not fit into
    the image, the largest centred part whose aspect ratio lies within `ratio`.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, example: Any, rng: np.random.Generator) -> np.ndarray:
        """Decode, cut, resize, mirror."""
        image = decode(example, self.channels)
        return _pixels(_maybe_flip(_resize(image, self.size, self._box(image.width, image.height, rng)), rng))

    def _box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return (x, y, x + w, y + h)
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        x, y = (width - w) // 2, (height - h) // 2
        return (x, y, x + w, y + h)


@dataclass(frozen=True)
class ResizeCentreCrop(_Square):
    """The short side resized to `resize` (default: size * 256/224, rounded), then the centre size x size.

    Done in one step, by resampling only the centre part, so that no image is too narrow or too large.
    """

    resize: int = 0

    def __call__(self, example: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        """Decode, cut, resize; `rng` is not used."""
        return _pixels(self.cut(decode(example, self.channels)))

    def cut(self, image: Image.Image) -> Image.Image:
        """The same of an image that is decoded."""
        side = min(image.size) * self.size / (self.resize or round(self.size * 256 / 224))
        x, y = (image.width - side) / 2, (image.height - side) / 2
        return _resize(image, self.size, (x, y, x + side, y + side))


@dataclass(frozen=True)
class RandomCropFlip(_Square):
    """The short side resized to `resize` (default: size * 256/224, rounded), a random size x size, mirrored or not."""

    resize: int = 0

    def __call__(self, example: Any, rng: np.random.Generator) -> np.ndarray:
        """Decode, cut, resize, mirror."""
        image = decode(example, self.channels)
        scale = min(image.size) / (self.resize or round(self.size * 256 / 224))
        side = self.size * scale
        x, y = (scale * int(rng.integers(round(n / scale) - self.size + 1)) for n in image.size)
        x, y = min(x, image.width - side), min(y, image.height - side)
        return _pixels(_maybe_flip(_resize(image, self.size, (x, y, x + side, y + side)), rng))


@dataclass(frozen=True)
class PadCropFlip(_Square):
    """Fitted to size x size, padded with `pad` zeros on each side, a random size x size of that, mirrored or not."""

    pad: int = 4

    def __call__(self, example: Any, rng: np.random.Generator) -> np.ndarray:
        """Decode, fit, move by -pad..pad pixels each way, mirror."""
        image = ResizeCentreCrop(self.size, resize=self.size).cut(decode(example, self.channels))
        x, y = (int(n) for n in rng.integers(-self.pad, self.pad + 1, 2))
        return _pixels(_maybe_flip(image.crop((x, y, x + self.size, y + self.size)), rng))


@dataclass(frozen=True)
class PadTo(_Square):
    """The image in the middle of size x size zeros; one that is larger is fitted to size x size."""

    def __call__(self, example: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        """Decode, pad; `rng` is not used."""
        image = decode(example, self.channels)
        if max(image.size) > self.size:
            return _pixels(ResizeCentreCrop(self.size, resize=self.size).cut(image))
        x, y = (image.width - self.size) // 2, (image.height - self.size) // 2
        return _pixels(image.crop((x, y, x + self.size, y + self.size)))


def make_transforms(augmentation: Augmentation, size: int, channels: int = 3) -> tuple[Transform, Transform]:
    """The transforms for training and evaluation of images [size, size, channels].

    ValueError for another augmentation than these, and for a size below 1.

        resized   RandomResizedCropFlip    ResizeCentreCrop
        random    RandomCropFlip           ResizeCentreCrop
        pad       PadCropFlip              fitted to size, nothing cut off the short side
        none      PadTo                    PadTo
    """
    if size < 1:
        raise ValueError(f"image_size must be at least 1, got {size}")
    if augmentation == "resized":
        return RandomResizedCropFlip(size, channels), ResizeCentreCrop(size, channels)
    if augmentation == "random":
        return RandomCropFlip(size, channels), ResizeCentreCrop(size, channels)
    if augmentation == "pad":
        return PadCropFlip(size, channels), ResizeCentreCrop(size, channels, resize=size)
    if augmentation == "none":
        return PadTo(size, channels), PadTo(size, channels)
    raise ValueError(f"crop must be one of {', '.join(get_args(Augmentation))}, got {augmentation!r}")
