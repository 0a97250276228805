"""What the samples of a TIFF file mean is read from the file; what cannot be read is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.store.images import read_planes


def numbers(shape: tuple[int, ...], dtype: Any = np.uint8, top: int = 256) -> np.ndarray:
    return (np.random.default_rng(0).integers(0, top, shape)).astype(dtype)


def read(path: Path) -> np.ndarray:
    (plane,) = read_planes(path)
    return plane.read()


def channels_first(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, -1, 0).astype(np.float32)


@pytest.mark.parametrize("factor", [257, 256, 1])
def test_a_palette_of_8_bits_gives_its_colours(factor: int, tmp_path: Path) -> None:
    indices, table = numbers((20, 30)), numbers((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table * np.uint16(factor))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), table[:, indices])


def test_a_palette_is_read_alike_from_tiff_png_and_bmp(tmp_path: Path) -> None:
    image = Image.fromarray(numbers((20, 30), top=16)).convert("P")
    image.putpalette(numbers((768,)).tolist())
    for ending in ("tif", "png", "bmp"):
        image.save(tmp_path / f"a.{ending}")
        np.testing.assert_array_equal(read(tmp_path / f"a.{ending}"), channels_first(np.asarray(image.convert("RGB"))))


def test_a_palette_of_16_bits(tmp_path: Path) -> None:
    indices, table = numbers((20, 30), np.uint16, 2**16), numbers((3, 2**16), np.uint16, 2**16)
    for values, colours in ((indices, table), (indices.astype(np.uint8), table[:, :256])):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="palette", colormap=colours, compression="zlib")
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), colours[:, values])


def test_pages_with_palettes(tmp_path: Path) -> None:
    indices, table = numbers((2, 20, 30)), numbers((3, 256), np.uint16, 2**16)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=table, metadata={"axes": "ZYX"})
    for plane, expected in zip(read_planes(tmp_path / "a.tif"), indices, strict=True):
        np.testing.assert_array_equal(plane.read(), table[:, expected])
    (plane, _) = read_planes(tmp_path / "a.tif", axes="TYX", channels=[2, 0])
    np.testing.assert_array_equal(plane.read(), table[[2, 0]][:, indices[0]])
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for colours in (table, table[::-1]):
            writer.write(indices[0], photometric="palette", colormap=colours, metadata=None)
    with pytest.raises(ImageError, match="different palettes"):
        read_planes(tmp_path / "b.tif")


def test_a_palette_that_is_too_short(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", numbers((20, 30)), photometric="palette", colormap=numbers((3, 256), np.uint16)
    )
    data = bytearray((tmp_path / "a.tif").read_bytes())
    place = data.index((320).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[place + 4 : place + 8] = (300).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match="palette that is damaged"):
        read_planes(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_white_is_zero(dtype: Any, top: int, compression: str | None, tmp_path: Path) -> None:
    values = numbers((20, 30), dtype, top)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], top - values.astype(np.float32))


def test_white_is_zero_in_packed_bits(tmp_path: Path) -> None:
    bits = numbers((20, 30), bool, 2)
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="miniswhite", software="a scanner")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], ~bits)
    few = numbers((20, 30), np.uint16, 4096)
    Image.fromarray(few).save(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", few, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "b.tif")[0], few)
    np.testing.assert_array_equal(read(tmp_path / "c.tif")[0], 65535 - few.astype(np.float32))


def test_boolean_arrays_written_from_python_keep_their_values(tmp_path: Path) -> None:
    bits = numbers((2, 20, 30), bool, 2)
    tifffile.imwrite(tmp_path / "a.tif", bits)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for page, n_rows in zip(bits, (20, 10), strict=True):
            file.write(page[:n_rows])
    np.testing.assert_array_equal([plane.read()[0] for plane in read_planes(tmp_path / "a.tif")], bits)
    second = read_planes(tmp_path / "b.tif", series=1)[0]
    np.testing.assert_array_equal(second.read()[0], bits[1, :10])


def test_values_of_imagej_are_measurements(tmp_path: Path) -> None:
    values = numbers((20, 30))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", imagej=True)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], values)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (numbers((20, 30), np.float32), {"photometric": "miniswhite"}, "white is 0"),
        (numbers((20, 30), np.int16), {"photometric": "miniswhite"}, "white is 0"),
        (numbers((20, 30, 3)), {"photometric": "cielab"}, "CIELAB"),
        (numbers((20, 30, 3)), {"photometric": "icclab"}, "ICCLAB"),
        (numbers((20, 30)), {"photometric": "cfa"}, "CFA"),
        (numbers((20, 30, 4), np.float32), {"photometric": "separated"}, "CMYK"),
        (numbers((20, 30), np.complex64), {}, "complex"),
    ],
)
def test_colours_that_are_not_understood_are_refused(values: Any, options: Any, said: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with pytest.raises(ImageError, match=said) as error:
        read_planes(tmp_path / "a.tif")
    assert "a" in str(error.value)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk_keeps_its_black(planar: str, tmp_path: Path) -> None:
    inks = numbers((20, 30, 4))
    stored = inks if planar == "contig" else np.moveaxis(inks, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="separated", planarconfig=planar)
    expected = channels_first(np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")))
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), expected)
    tifffile.imwrite(tmp_path / "b.tif", stored.astype(np.uint16) * 257, photometric="separated", planarconfig=planar)
    np.testing.assert_allclose(read(tmp_path / "b.tif") / 257, expected, atol=0.51)


def test_ycbcr_becomes_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.repeat(np.repeat(numbers((5, 8, 3)), 8, 0), 8, 1))
    ycbcr = np.asarray(rgb.convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", ycbcr, photometric="ycbcr", compression="zlib", subsampling=(1, 1))
    expected = channels_first(np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB")))
    np.testing.assert_allclose(read(tmp_path / "a.tif"), expected, atol=1)
    rgb.save(tmp_path / "b.tif", compression="jpeg")
    tifffile.imwrite(tmp_path / "c.tif", np.asarray(rgb), photometric="rgb", compression="jpeg", subsampling=(2, 2))
    for name in ("b.tif", "c.tif"):
        assert np.abs(read(tmp_path / name) - channels_first(np.asarray(rgb))).mean() < 10


def test_ycbcr_with_fewer_colours_than_pixels_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", numbers((16, 16, 3)), photometric="ycbcr", subsampling=(1, 1), compression="zlib"
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        tif.pages[0].tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(ImageError, match=r"a\.tif' cannot be read"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("n_colours", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_is_left_out_and_its_product_undone(n_colours: int, planar: str, dtype: Any, tmp_path: Path) -> None:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    colour = numbers((20, 30, n_colours), np.float64, 256) / 255 * top
    alpha = np.linspace(0.25, 1, 20 * 30).reshape(20, 30, 1)
    for kind, factor in (("unassalpha", 1), ("assocalpha", alpha)):
        stored = np.concatenate([colour * factor, alpha * top], axis=-1)
        stored = (stored if dtype is np.float32 else np.rint(stored)).astype(dtype)
        tifffile.imwrite(
            tmp_path / "a.tif",
            stored if planar == "contig" else np.moveaxis(stored, -1, 0),
            photometric="rgb" if n_colours == 3 else "minisblack",
            planarconfig=planar,
            extrasamples=[kind],
            metadata=None,
        )
        found = read(tmp_path / "a.tif")
        assert found.shape == (n_colours, 20, 30)
        np.testing.assert_allclose(found, channels_first(colour), atol=4.5 if dtype is not np.float32 else 1e-5)


def test_where_alpha_is_0_a_multiplied_colour_is_black(tmp_path: Path) -> None:
    stored = np.array([[[0, 0, 0, 0], [100, 50, 25, 128]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[:, 0], [[0, 199], [0, 100], [0, 50]])


def test_two_channels_are_no_alpha(tmp_path: Path) -> None:
    values = numbers((20, 30, 2))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig", metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), channels_first(values))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f2", "f4", "f8"])
def test_all_kinds_of_numbers(dtype: str, order: str, tmp_path: Path) -> None:
    values = numbers((20, 30), np.int16, 250)
    values = (values - 100 if dtype[0] != "u" else values).astype(dtype)
    for options in ({}, {"compression": "zlib", "tile": (16, 16)}):
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, **options)
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], values.astype(np.float32))


def test_12_bits_are_unpacked(tmp_path: Path) -> None:
    values = numbers((20, 30), np.uint16, 4096)
    packed = bytearray()
    for a, b in values.reshape(-1, 2).tolist():
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    tifffile.imwrite(
        tmp_path / "a.tif", iter([bytes(packed)]), shape=(20, 30), dtype="uint16", bitspersample=12, rowsperstrip=20
    )
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], values)
