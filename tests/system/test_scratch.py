"""Maps of large images lie in files of their own, and are worked on in strips."""

import errno
import gc
import types
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.errors import UFlowError
from napari_uflow.system import scratch
from napari_uflow.system.scratch import allocate_map, release_pages, strips


def test_a_small_map_is_an_array_in_memory():
    assert type(allocate_map((100, 100), np.float32)) is np.ndarray


@pytest.mark.slow
def test_a_large_map_lies_in_a_file_that_goes_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "LARGE", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = allocate_map((50, 40), np.int32)
    assert isinstance(array, np.memmap)
    array[...] = np.arange(2000).reshape(50, 40)
    release_pages(array)
    np.testing.assert_array_equal(array, np.arange(2000).reshape(50, 40))
    view = array[3:]
    del array
    gc.collect()
    assert view[0, 0] == 120
    assert not list(tmp_path.iterdir())


def test_what_is_changed_in_memory_only_is_kept(tmp_path):
    np.zeros(5000, np.uint8).tofile(tmp_path / "file")
    array = np.memmap(tmp_path / "file", np.uint8, mode="c")
    array[7] = 9
    release_pages(array, np.asarray(array)[5:], np.zeros(3), None)
    assert array[7] == 9


def test_a_part_of_a_map_lets_the_map_go(monkeypatch):
    monkeypatch.setattr(scratch, "LARGE", 1000)
    array = allocate_map((50, 40), np.int32)
    array[...] = 5
    asked = []

    class Mapping:
        madvise = asked.append

    monkeypatch.setattr(scratch.mmap, "mmap", Mapping)
    array._mmap = Mapping()
    release_pages(np.asarray(array)[3:, ::2])
    assert len(asked) == 1


def test_a_full_disk_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "LARGE", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UFlowError, match=r"map of .* MB .*TMPDIR"):
        allocate_map((50, 40), np.int32)


@pytest.mark.parametrize("is_reserved", [True, False])
def test_room_is_taken_when_it_is_asked_for(monkeypatch, is_reserved):
    """A file with a hole in place of room would end the program when the disk is full."""
    monkeypatch.setattr(scratch, "LARGE", 1000)

    def full(file, start, length):
        raise OSError(errno.ENOSPC if is_reserved else errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(scratch.os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=7999))
    with pytest.raises(UFlowError, match=r"map of .* MB .*TMPDIR"):
        allocate_map((50, 40), np.int32)
    if not is_reserved:
        monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=8000))
        assert allocate_map((50, 40), np.int32).shape == (50, 40)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 4, 16]))
def test_strips_partition_the_rows(height, width, align):
    found = list(strips((height, width), align))
    assert found[0][0] == 0
    assert found[-1][1] == height
    assert all(stop == start for (_, stop), (start, _) in pairwise(found))
    assert all(start % align == 0 for start, _ in found)
    assert all((stop - start) * width <= max(scratch._STRIP_PIXELS, align * width) for start, stop in found)
