"""Image files read on demand: the values of the file, and an error, never a dead process, if it changes meanwhile."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes
from napari_uflow.store.source import SourceFile, UncompressedPixels

SHAPE = (3, 5, 7, 2)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The same numbers in a file behind a header of 11 bytes, and in memory."""
    path = tmp_path_factory.mktemp("pixels") / "pixels"
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(">u2")
    path.write_bytes(b"h" * 11 + values.tobytes())
    return UncompressedPixels(path, 11, SHAPE, ">u2"), values


def keys(size):
    parts = st.slices(size).filter(lambda s: (s.step or 1) > 0)
    return st.one_of(st.integers(-size, size - 1), parts)


@given(key=st.tuples(*(keys(n) for n in SHAPE)), length=st.integers(0, 4))
def test_every_part_is_that_of_the_array(pixels, key, length):
    lazy, values = pixels
    np.testing.assert_array_equal(lazy[key[:length]], values[key[:length]])
    np.testing.assert_array_equal(lazy[(..., *key[length:])], values[(..., *key[length:])])


@pytest.mark.parametrize("key", [5, (0, 0, 0, 0, 0), (slice(None, None, -1),)])
def test_what_cannot_be_read_is_an_index_error(pixels, key):
    with pytest.raises(IndexError):
        pixels[0][key]


def test_the_whole_is_an_array(pixels):
    np.testing.assert_array_equal(np.asarray(pixels[0]), pixels[1])


COMPRESSIONS = [None, "zlib"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("fault", ["cut", "emptied", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, compression, fault):
    path = tmp_path / "a.tif"
    image = np.random.default_rng(0).integers(0, 256, (200, 300), dtype=np.uint8)
    tifffile.imwrite(path, image, compression=compression, rowsperstrip=20)
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read(Window(0, 0, 20, 300))[0], image[:20])
    if fault in ("cut", "emptied"):
        os.truncate(path, 3000 if fault == "cut" else 0)
    elif fault == "replaced":
        tifffile.imwrite(tmp_path / "b.tif", image[::-1], compression=compression, rowsperstrip=20)
        os.utime(tmp_path / "b.tif", ns=(1, 1))
        os.replace(tmp_path / "b.tif", path)
    else:
        path.unlink()
    with pytest.raises(ImageError, match=r"a\.tif"):
        plane.read(Window(100, 0, 20, 300))


def test_a_file_cut_short_between_opening_and_reading_does_not_kill_the_process(tmp_path):
    """Behind the check of the size: as on a drive that is lost in the middle of a read."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((2000, 2000), np.uint8))
    code = f"""
import os
from napari_uflow.errors import ImageError
from napari_uflow.store import source
from napari_uflow.store.images import read_planes
(plane,) = read_planes({str(path)!r})
os.truncate({str(path)!r}, 5000)
source._state = lambda status: plane.data._file._state
try:
    plane.read()
except ImageError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ends before its pixels do" in result.stdout


def test_reading_never_maps_a_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((50, 60), np.uint16))
    (plane,) = read_planes(path)
    plane.read()
    assert not isinstance(plane.data, np.memmap)
    if sys.platform == "linux":
        with open("/proc/self/maps", encoding="utf-8") as maps:
            assert str(path) not in maps.read()
        assert str(path) not in {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}


def test_a_byte_count_beyond_the_file_takes_no_memory(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert SourceFile(path).read(1, 2**40) == b"bc"
    assert SourceFile(path).read(9, 2**40) == b""
