from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ImageError
from napari_uflow.store.decoded import DecodedBlocks
from napari_uflow.store.images import read_planes
from napari_uflow.store.segments import TiffSegments

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": 40},
    "tiles": {"tile": (16, 32)},
    "tiles, predictor": {"tile": (16, 16), "predictor": True},
    "colour": {"photometric": "rgb", "rowsperstrip": 7},
    "colour tiles": {"photometric": "rgb", "tile": (16, 16)},
    "colour planes": {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)},
}


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def image(request: Any, tmp_path_factory: Any) -> tuple[np.ndarray, TiffSegments, Path]:
    options = LAYOUTS[request.param]
    shape: tuple[int, ...] = (2, 3, 40, 50)
    if "colour" in request.param:
        shape = (2, 3, 40, 50) if "planes" in request.param else (2, 40, 50, 3)
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)
    path = tmp_path_factory.mktemp("segments") / "a.tif"
    tifffile.imwrite(path, values, compression="zlib", **{"photometric": "minisblack", **options})
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].dataoffset is None
        return values, TiffSegments(tif.series[0]), path


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_part_is_the_part_of_the_array(image: tuple[np.ndarray, TiffSegments, Path], data: st.DataObject) -> None:
    values, lazy, _ = image
    key = tuple(
        data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n).filter(lambda s: s.step is None or s.step > 0)))
        for n in values.shape[: data.draw(st.integers(0, 4))]
    )
    part = lazy[key]
    assert part.dtype == values.dtype
    np.testing.assert_array_equal(part, values[key])


def test_like_an_array(image: tuple[np.ndarray, TiffSegments, Path]) -> None:
    values, lazy, _ = image
    assert (lazy.shape, lazy.ndim, lazy.dtype) == (values.shape, values.ndim, values.dtype)
    np.testing.assert_array_equal(np.asarray(lazy), values)
    np.testing.assert_array_equal(np.asarray(lazy, dtype=np.float64), values)
    np.testing.assert_array_equal(lazy[..., 2], values[..., 2])
    np.testing.assert_array_equal(lazy[1], values[1])
    for key in ((0,) * 5, 2, (slice(None, None, -1),)):
        with pytest.raises(IndexError):
            lazy[key]
    with pytest.raises(ValueError, match="copy"):
        np.asarray(lazy, copy=False)


def test_only_the_needed_segments_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 64, 64), np.uint8), compression="zlib", tile=(16, 16), photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        lazy = TiffSegments(tif.series[0])
    numbers = []
    decode = lazy._decode
    lazy._decode = lambda data, number, **options: numbers.append(number) or decode(data, number, **options)
    lazy[2, 10:20, 33:40]
    assert numbers == [2, 6]
    lazy[2, 12:18, 35:36]
    assert numbers == [2, 6]


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    tifffile.imwrite(path, values, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        lazy = TiffSegments(tif.series[0])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"a\.tif' has changed since it was opened"):
        lazy[:]
    path.unlink()
    with pytest.raises(ImageError, match=r"a\.tif' cannot be read"):
        lazy[:]


def test_the_memory_for_decoded_segments_is_bounded_for_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = DecodedBlocks(1000)
    monkeypatch.setattr("napari_uflow.store.segments.DECODED", decoded)
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    opened = []
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{i}.tif", values + i, compression="zlib", tile=(16, 16))
        with tifffile.TiffFile(tmp_path / f"{i}.tif") as tif:
            opened.append(TiffSegments(tif.series[0]))
        np.testing.assert_array_equal(opened[-1][:], values + i)
        assert decoded.n_bytes == 512
    lazy = opened[0]
    np.testing.assert_array_equal(lazy[5:60, 3:50], values[5:60, 3:50])


def test_a_strip_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages[0].tags[name].overwrite(50_000)
    with pytest.raises(ImageError, match=r"a\.tif' has blocks of 2\.5 GB"):
        read_planes(path)


def test_a_strip_that_decompresses_to_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4000, 4000), np.uint8), compression="zlib", rowsperstrip=4000)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages[0].tags[name].overwrite(16)
    (plane,) = read_planes(path)
    with pytest.raises(ImageError, match=r"a\.tif' cannot be read"):
        plane.read()


def test_blocks_that_do_not_cover_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["ImageLength"].overwrite(640)
    (plane,) = read_planes(path)
    with pytest.raises(ImageError, match=r"a\.tif' cannot be read"):
        plane.read()
