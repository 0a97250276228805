"""PNG, JPEG and BMP files are read with all their bits and as they are shown, when pixels are needed."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.store.images import read_planes
from napari_uflow.store.pictures import open_picture


def numbers(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def read(path: Path) -> np.ndarray:
    (plane,) = read_planes(path)
    return plane.read()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *others: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(others) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("n_samples", [1, 2, 3, 4])
def test_a_png_keeps_its_bits_and_loses_its_alpha(n_samples: int, dtype: Any, tmp_path: Path) -> None:
    values = numbers((20, 30, n_samples), dtype)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))
    n_channels = 1 if n_samples < 3 else 3
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.moveaxis(values[..., :n_channels], -1, 0))
    assert open_picture(tmp_path / "a.png")[0].dtype == dtype


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_is_a_colour(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(numbers((20, 30, 3))).convert(mode)
    transparent = (1, 2, 3) if mode == "RGB" else 0
    image.save(tmp_path / "a.png", transparency=transparent)
    image.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    expected = np.asarray(image.convert("L" if mode in "1L" else "RGB"))
    np.testing.assert_array_equal(read(tmp_path / "b.png"), np.moveaxis(np.atleast_3d(expected), -1, 0))


@pytest.mark.parametrize(("bits", "row"), [(1, b"\x58"), (2, b"\x1b"), (4, b"\x05\xaf")])
def test_few_bits_of_grey_are_spread(bits: int, row: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 1, bits, 0, b"\0" + row))
    expected = {1: [0, 255, 0, 255], 2: [0, 85, 170, 255], 4: [0, 85, 170, 255]}[bits]
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0, 0], expected)


def test_gamma_and_colour_profiles_change_nothing(tmp_path: Path) -> None:
    row = bytes([0, 10, 100, 200])
    for other in (chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sRGB", b"\0"), b""):
        (tmp_path / "a.png").write_bytes(png(3, 1, 8, 0, row, other))
        np.testing.assert_array_equal(read(tmp_path / "a.png")[0, 0], [10, 100, 200])


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    values = np.zeros((40, 64, 3), np.uint8)
    values[:8, :16] = 255
    Image.fromarray(values).save(tmp_path / f"a.{ending}", exif=exif)
    found = read(tmp_path / f"a.{ending}")[0] > 128
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert found.shape == ((64, 40) if orientation >= 5 else (40, 64))
    assert found.sum() == 128
    assert found[corner[orientation]]


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 3
    data = png(2, 1, 8, 0, bytes([0, 10, 20]))
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:])
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0, 0], [20, 10])
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk(b"eXIf", b"damaged") + data[-12:])
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0, 0], [10, 20])


def test_jpeg_of_inks_has_its_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 4), (0, 0, 0, 200), np.uint8), "CMYK")
    image.save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read(tmp_path / "a.jpg"), 55, atol=3)


def test_bmp_of_32_bits(tmp_path: Path) -> None:
    values = numbers((5, 6, 4))
    Image.fromarray(values).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read(tmp_path / "a.bmp"), np.moveaxis(values[..., :3], -1, 0))


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(numbers((20, 30)) + i) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation of 3 frames"):
        read_planes(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "JPEG2000", "TIFF", "EPS", "PPM"])
def test_other_formats_are_not_opened_under_a_wrong_ending(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(numbers((20, 30, 3)))
    for ending in ("png", "jpg", "bmp"):
        image.save(tmp_path / f"a.{ending}", format=kind)
        with pytest.raises(ImageError, match="another format than its ending"):
            read_planes(tmp_path / f"a.{ending}")


def test_a_jpeg_called_png_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(tmp_path / "a.png", format="JPEG")
    np.testing.assert_allclose(read(tmp_path / "a.png"), 99, atol=2)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_pixels_are_decoded_when_they_are_needed(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(numbers((60, 70, 3))).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    (plane,) = read_planes(path)
    with pytest.raises(ImageError, match=rf"a\.{ending}' cannot be read"):
        plane.read()
    path.unlink()
    with pytest.raises(ImageError, match=r"No such file"):
        plane.read()


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (40000, 40000)])
def test_a_size_that_would_fill_the_memory_is_refused_unread(width: int, height: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height, 8, 2, b""))
    with pytest.raises(ImageError, match="too large for this format"):
        read_planes(tmp_path / "a.png")
    small = tmp_path / "a.bmp"
    Image.fromarray(numbers((2, 2, 3))).save(small)
    data = bytearray(small.read_bytes())
    struct.pack_into("<ii", data, 18, width, height)
    small.write_bytes(data)
    with pytest.raises(ImageError, match="too large for this format"):
        read_planes(small)


@pytest.mark.parametrize(("width", "height", "bits", "colour"), [(0, 5, 8, 0), (5, 5, 3, 0), (5, 5, 8, 1)])
def test_a_header_that_cannot_be(width: int, height: int, bits: int, colour: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height, bits, colour, b""))
    with pytest.raises(ImageError, match=r"a\.png' cannot be read"):
        read_planes(tmp_path / "a.png")
