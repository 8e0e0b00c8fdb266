"""Would catch: a crop outside the image or outside its law, an aliased resize, a shifted pad, a flip that never comes;
images that ImageNet really holds (CMYK, PNG, gray, EXIF, thin, truncated) decoded wrongly or with a crash."""

import io
import struct

import numpy as np
import pytest
from data_forms import jpeg
from PIL import Image

from epjax.data import (
    BadImage,
    Example,
    PadCropFlip,
    PadTo,
    RandomCropFlip,
    RandomResizedCropFlip,
    ResizeCentreCrop,
    make_transforms,
)
from epjax.data.transforms import decode

pytestmark = pytest.mark.fast


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, channels: int = 3) -> Example:
    return Example(rng().integers(0, 256, (height, width, channels), dtype=np.uint8), 0, "noise")


def encoded(image: Image.Image, form: str, **options) -> Example:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Example(file.getvalue(), 0, "x.JPEG")


def red() -> Image.Image:
    return Image.new("RGB", (16, 16), (200, 10, 20))


# Crops


@pytest.mark.parametrize("size", [(375, 500), (30, 300), (300, 30), (1, 400), (400, 1), (1, 1)])
def test_random_resized_boxes_follow_their_law(size):
    height, width = size
    transform, generator = RandomResizedCropFlip(32), rng()
    boxes = np.array([transform._box(width, height, generator) for _ in range(500)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert (w >= 1).all()
    assert (h >= 1).all()
    if min(size) > 100:
        area = w * h / (width * height)
        assert 0.07 < area.min() < 0.12
        assert 0.8 < area.max() <= 1.0
        assert 0.4 < area.mean() < 0.56  # U(.08, 1) has .54; large parts are drawn again more often.
        assert 0.74 < (w / h).min() < 0.78
        assert 1.28 < (w / h).max() < 1.35
        assert abs(np.log(w / h).mean()) < 0.05


def test_random_resized_is_pillows_resize_of_the_box():
    example, transform = noise(40, 50), RandomResizedCropFlip(16)
    got = transform(example, rng(3))
    generator = rng(3)
    box = transform._box(50, 40, generator)
    expected = np.asarray(Image.fromarray(example.image).resize((16, 16), Image.Resampling.BILINEAR, box))
    assert np.array_equal(got, expected[:, ::-1] if generator.random() < 0.5 else expected)


@pytest.mark.parametrize(
    "transform", [RandomResizedCropFlip(56, scale=(1, 1), ratio=(1, 1)), ResizeCentreCrop(56), RandomCropFlip(56)]
)
def test_resizes_are_antialiased(transform):
    board = np.indices((448, 448)).sum(0) % 2 * 255
    pixels = transform(Example(np.repeat(board.astype(np.uint8)[..., None], 3, 2), 0, "board"), rng())
    assert abs(pixels.astype(int) - 127).max() <= 2  # Picking every eighth pixel would leave black or white.


def test_centre_crop_is_resize_then_crop():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    pixels = ResizeCentreCrop(224)(Example(np.ascontiguousarray(ramp), 0, "ramp"))
    assert np.array_equal(pixels, ramp[16:240, 16:240])  # 256 -> 256 is no resize; the centre 224 starts at 16.


def test_centre_crop_of_the_same_size_is_the_image():
    example = noise(32, 32)
    assert np.array_equal(ResizeCentreCrop(32, resize=32)(example), example.image)


def test_random_crop_is_a_window_of_the_resized_image():
    example = noise(256, 300)
    windows = set()
    for seed in range(20):
        pixels = RandomCropFlip(224)(example, rng(seed))
        x, y = (int(rng_.integers(n - 224 + 1)) for rng_ in [rng(seed)] for n in (300, 256))
        window = example.image[y : y + 224, x : x + 224]
        assert np.array_equal(pixels, window) or np.array_equal(pixels, window[:, ::-1])
        windows.add((x, y))
    assert len(windows) > 15


def test_pad_crop_flip_gives_all_its_outcomes_and_no_other():
    example = noise(6, 6)
    padded = np.pad(example.image, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    outcomes = {a.tobytes() for s in shifts for a in (s, s[:, ::-1])}
    generator = rng()
    assert {PadCropFlip(6, pad=1)(example, generator).tobytes() for _ in range(400)} == outcomes


def test_pad_to_puts_mnist_in_the_middle():
    example = noise(28, 28, 1)
    assert np.array_equal(PadTo(32, channels=1)(example), np.pad(example.image, ((2, 2), (2, 2), (0, 0))))
    assert PadTo(16, channels=1)(example).shape == (16, 16, 1)


@pytest.mark.parametrize("augmentation", ["resized", "random", "pad", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (33, 20)])
def test_every_shape_comes_out_right(augmentation, channels, size):
    for transform in make_transforms(augmentation, 32, channels):
        pixels = transform(noise(*size), rng())
        assert (pixels.shape, pixels.dtype) == (transform.shape, np.uint8) == ((32, 32, channels), np.uint8)


def test_thin_images_need_no_memory():
    # Resizing 1 x 60,000 to a short side of 256 would take 11 GB.
    example = encoded(Image.new("RGB", (1, 60_000), (7, 7, 7)), "PNG")
    for augmentation in ("resized", "random", "pad", "none"):
        for transform in make_transforms(augmentation, 224):
            assert transform(example, rng()).shape == (224, 224, 3)


def test_unknown_crop():
    with pytest.raises(ValueError, match="crop must be one of resized, random, pad, none, got 'centre'"):
        make_transforms("centre", 32)
    with pytest.raises(ValueError, match="image_size must lie between 1 and 8,192 pixels, got 0"):
        make_transforms("pad", 0)


# Decoding


@pytest.mark.parametrize(
    "example",
    [
        encoded(red(), "PNG"),
        encoded(red().convert("RGBA"), "PNG"),
        encoded(red().quantize(8), "PNG"),
        encoded(red(), "JPEG", quality=95),
        encoded(red().convert("CMYK"), "JPEG", quality=95),
        encoded(red(), "BMP"),
    ],
)
def test_whatever_lies_under_a_jpeg_name_is_decoded(example):
    pixels = np.asarray(decode(example)).astype(int)
    assert pixels.shape == (16, 16, 3)
    assert abs(pixels - (200, 10, 20)).max() <= 12


def test_gray_becomes_three_equal_channels_and_colour_one():
    gray = np.asarray(decode(encoded(Image.new("L", (8, 8), 90), "JPEG")))
    assert gray.shape == (8, 8, 3)
    assert (gray == 90).all()
    assert np.asarray(decode(encoded(red(), "PNG"), channels=1)).shape == (8 * 2, 16)


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (20, 10)


WHOLE = jpeg(rng(), (64, 64))
PNG = encoded(red(), "PNG").image


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"<html>not found</html>",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:20],
        PNG[:40],
        PNG[:33] + b"\xff" * 30,
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
        + b"1234",
    ],
)
def test_bad_images_are_named(content):
    with pytest.raises(BadImage, match=r"^val/n0/x.JPEG cannot be decoded: .+"):
        decode(Example(content, 0, "val/n0/x.JPEG"))
