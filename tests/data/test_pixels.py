import io

import numpy as np
import pytest
from PIL import Image

from ttp_jax.data import pixels
from ttp_jax.types import InputError


def encoded(array, mode=None, file_format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, file_format, **options)
    return buffer.getvalue()


def one(content, **options):
    return pixels.stack([("the picture", content)], **options)[0]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_native_size_is_untouched():
    rgb, grey = noise(5, 7, 3), noise(5, 7)
    np.testing.assert_array_equal(one(encoded(rgb)), rgb)
    np.testing.assert_array_equal(one(encoded(grey)), grey[..., None])
    np.testing.assert_array_equal(one(rgb), rgb)
    np.testing.assert_array_equal(one(grey), grey[..., None])
    np.testing.assert_array_equal(one(grey[..., None]), grey[..., None])


def test_crop_is_central_and_square():
    wide = noise(4, 10, 3)
    np.testing.assert_array_equal(one(wide, image_size=4), wide[:, 3:7])
    tall = noise(11, 4)
    np.testing.assert_array_equal(one(tall, image_size=4), tall[3:7, :, None])


def test_reduction_does_not_alias_and_does_not_see_outside_the_crop():
    # One-pixel stripes: without a filter that widens, a reduction by 8 would give 0 or 255.
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    grey = one(stripes, image_size=8)
    assert np.abs(grey.astype(int) - 127).max() <= 12
    framed = np.full((64, 128, 3), 255, np.uint8)
    framed[:, 32:96] = 0
    assert one(framed, image_size=8).max() == 0


def test_enlarging_keeps_a_constant_picture():
    assert (one(np.full((8, 8), 77, np.uint8), image_size=32) == 77).all()


def test_channels_are_grey_only_where_all_are_grey():
    grey, rgb = noise(6, 6), noise(6, 6, 3)
    assert pixels.stack([("a", grey), ("b", encoded(grey))]).shape == (2, 6, 6, 1)
    mixed = pixels.stack([("a", grey), ("b", rgb)])
    np.testing.assert_array_equal(mixed[0], np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(mixed[1], rgb)
    assert pixels.stack([("a", grey)], channels=3).shape == (1, 6, 6, 3)
    luma = one(rgb, channels=1)[..., 0]
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - expected).max() <= 1


def test_transparency_is_laid_on_white():
    rgba = np.zeros((3, 3, 4), np.uint8)
    rgba[..., 3] = [0, 128, 255]
    np.testing.assert_array_equal(one(encoded(rgba))[0, :, 0], [255, 127, 0])
    grey_alpha = one(encoded(rgba, "LA"))
    assert grey_alpha.shape == (3, 3, 1)
    np.testing.assert_array_equal(grey_alpha[0, :, 0], [255, 127, 0])


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    np.testing.assert_array_equal(one(encoded(deep))[0, :, 0], [0, 1, 128, 255])


def test_palette_one_bit_and_cmyk_pictures():
    flat = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    np.testing.assert_array_equal(one(encoded(flat, "P")), flat)
    bits = one(encoded(np.array([[0, 255]], np.uint8), "1"))
    np.testing.assert_array_equal(bits[0, :, 0], [0, 255])
    cmyk = one(encoded(flat, "CMYK", "JPEG", quality=100))
    assert cmyk.shape == (8, 8, 3)
    assert np.abs(cmyk.astype(int) - flat).max() < 8


def test_exif_orientation_is_followed():
    upright = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(np.rot90(upright), exif=exif)
    np.testing.assert_array_equal(one(turned)[..., 0], upright)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a picture"),
        (b"no picture at all", "not a picture"),
        (encoded(noise(40, 40, 3))[:900], "trunc"),
        (encoded(noise(40, 40, 3), file_format="JPEG")[:900], "trunc"),
    ],
)
def test_an_unreadable_picture_is_named(content, reason):
    with pytest.raises(InputError, match="the picture must be a readable picture") as error:
        one(content)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert "BytesIO" not in str(error.value)


def test_modes_of_unknown_range_are_refused():
    with pytest.raises(InputError, match="8 or 16 bits"):
        one(encoded(np.ones((2, 2), np.float32), file_format="TIFF"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "at least 1 pixel, got 0"),
        ({"channels": 2}, "1 .grey. or 3 .RGB., got 2"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(InputError, match=message):
        one(noise(4, 4), **options)


def test_different_native_sizes_name_the_way_out():
    with pytest.raises(InputError, match=r"got 4x4 and 6x5 \(b\); pass --image-size"):
        pixels.stack([("a", noise(4, 4)), ("b", noise(5, 6))])
