"""Oracle: pixels written by hand. Every mode in which Pillow opens an image is decoded as it is meant, or refused.

Catches a 16-bit picture that becomes white, floats that become black, a mode that another library's words refuse.
"""

import io

import numpy as np
import pytest
from PIL import Image

from epjax.data import BadImage, Example
from epjax.data.transforms import PadTo

pytestmark = pytest.mark.fast

GREY = np.array([[0, 64], [128, 255]], np.uint8)


def read(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return PadTo(2, 3)(Example(file.getvalue(), 0, "one"), np.random.default_rng(0))


def coloured():
    return Image.fromarray(np.stack([GREY, GREY.T, 255 - GREY], axis=-1))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (2, 2), 255)]), GREY),
        (Image.fromarray(GREY).convert("P"), GREY),
    ],
    ids=["L", "1", "I;16", "LA", "P"],
)
def test_grey_in_every_mode(image, expected):
    np.testing.assert_array_equal(read(image), np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("mode", "form", "off"), [("RGB", "PNG", 0), ("RGBA", "PNG", 0), ("CMYK", "TIFF", 2), ("YCbCr", "TIFF", 2)]
)
def test_colours_in_every_mode(mode, form, off):
    found = read(coloured().convert(mode), form).astype(int)
    assert np.abs(found - np.asarray(coloured()).astype(int)).max() <= off


@pytest.mark.parametrize("mode", ["RGB", "YCbCr", "CMYK"])
def test_colours_of_a_jpeg(mode):
    """One colour, which JPEG keeps to rounding in whatever space it is written."""
    colour = (200, 60, 30)
    image = Image.new("RGB", (2, 2), colour).convert(mode)
    found = read(image, "JPEG", quality=100, subsampling=0).astype(int)
    assert np.abs(found - colour).max() <= 3


def test_the_first_picture_of_an_animation():
    found = read(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    np.testing.assert_array_equal(found[:, :, 0], GREY)


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_what_does_not_say_what_is_white_is_refused(kind, mode):
    with pytest.raises(BadImage, match=rf"one cannot be decoded: its mode {mode} .* does not say what is white"):
        read(Image.fromarray(GREY.astype(kind)), "TIFF")
