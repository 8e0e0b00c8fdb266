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

_UNDECODABLE = (OSError, ValueError, TypeError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
_16_BITS = 2**16 - 1


class BadImage(ValueError):
    """An image that cannot be read or decoded; the message names it and says why."""


class Transform(Protocol):
    """An example and its own random generator -> uint8 [H, W, C] of the fixed `shape`; picklable.

    One that makes the label too gives (x, label), and says its `dtype` and `label_shape` (see `epjax.data.text`).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __call__(self, example: Any, rng: np.random.Generator) -> Any: ...  # noqa: D102


def decode(example: Any, channels: int = 3) -> Image.Image:
    """The image of an Example, as RGB (channels 3) or gray (channels 1).

    Colour space and file type are read from the bytes, not from the name: CMYK JPEGs and PNGs under .JPEG names are
    converted, gray of 16 bits is scaled to 8, transparency is dropped, the EXIF orientation is ignored, and of an
    animation the first picture is taken. Raises BadImage naming the file, also where pixels have no known range.
    """
    try:
        if isinstance(example.image, np.ndarray):
            image = _from_array(example.image)
        elif not example.image:
            raise ValueError("it is empty (zero bytes)")
        else:
            image = Image.open(io.BytesIO(example.image))
        image.load()  # Decodes; `convert` would copy what needs no conversion.
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else _of_8_bits(image).convert(mode)
    except Image.UnidentifiedImageError:
        raise BadImage(f"{example.name} cannot be decoded: its {len(example.image)} bytes are no image") from None
    except _UNDECODABLE as error:
        raise BadImage(f"{example.name} cannot be decoded: {error}") from None


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8, but are {pixels.dtype}")
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """The same in a mode that `convert` takes as it is meant: that cuts what is larger than 255, and fractions.

    0 to 65535 becomes 0 to 255, rounded. Raises ValueError for modes that do not say what white is.
    """
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by how opaque they are
        return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + _16_BITS // 2) // _16_BITS).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = {"I": "integers of 32 bits", "F": "floats"}[image.mode]
        raise ValueError(f"its mode {image.mode} ({kind}) does not say what is white; save it with 8 or 16 bits")
    return image


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


LARGEST = 8192
"""Height and width: one image of this size has 200 MB before any network has seen it."""


def make_transforms(augmentation: Augmentation, size: int, channels: int = 3) -> tuple[Transform, Transform]:
    """The transforms for training and evaluation of images [size, size, channels].

    ValueError for another augmentation than these, and for a size outside 1 to LARGEST.

        resized   RandomResizedCropFlip    ResizeCentreCrop
        random    RandomCropFlip           ResizeCentreCrop
        pad       PadCropFlip              fitted to size, nothing cut off the short side
        none      PadTo                    PadTo
    """
    if not 1 <= size <= LARGEST:
        raise ValueError(f"image_size must lie between 1 and {LARGEST:,} pixels, got {size}")
    if augmentation == "resized":
        return RandomResizedCropFlip(size, channels), ResizeCentreCrop(size, channels)
    if augmentation == "random":
        return RandomCropFlip(size, channels), ResizeCentreCrop(size, channels)
    if augmentation == "pad":
        return PadCropFlip(size, channels), ResizeCentreCrop(size, channels, resize=size)
    if augmentation == "none":
        return PadTo(size, channels), PadTo(size, channels)
    raise ValueError(f"crop must be one of {', '.join(get_args(Augmentation))}, got {augmentation!r}")
