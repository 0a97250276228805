"""Image files read on demand: the values of the file, and an error, never a dead process, if it changes meanwhile."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes


@pytest.mark.parametrize("compression", [None, "zlib"])
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
