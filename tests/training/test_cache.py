"""The feature cache: in memory as long as it fits, then on disk, with the same values."""

import errno
import os
import tempfile

import numpy as np
import pytest
import torch

from napari_uflow.errors import UFlowError
from napari_uflow.image.grid import Window
from napari_uflow.model.border import Border
from napari_uflow.training import cache as cache_module
from napari_uflow.training.cache import FeatureCache


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def tiles(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            [torch.randn(3, 8, 6, generator=generator), torch.randn(5, 4, 3, generator=generator)],
            [torch.rand(8, 6, generator=generator) < 0.5, torch.rand(4, 3, generator=generator) < 0.5],
        )
        for _ in range(n)
    ]


def fill(cache: FeatureCache, n: int = 4) -> None:
    for features, is_normal in tiles(n):
        cache.add(features, is_normal)


@pytest.mark.parametrize("limit", [0, 1000, 1e9])
def test_values_are_the_same_wherever_they_are_kept(limit, temporary_folder):
    size = 2 * (3 * 8 * 6 + 5 * 4 * 3)
    n_in_memory = min(4, int(limit // size))
    with FeatureCache(limit) as cache:
        for features, is_normal in tiles():
            cache.add(features, is_normal)
        assert len(cache) == 4
        assert cache.n_bytes_in_memory == n_in_memory * size
        assert cache.n_bytes_on_disk == (4 - n_in_memory) * size
        for i, (features, is_normal) in enumerate(tiles()):
            assert cache[i].shape == (8, 6)
            for kept, given in zip(cache[i].features, features, strict=True):
                assert kept.dtype == torch.float16
                assert torch.equal(kept, given.half())
            for kept, given in zip(cache[i].is_normal, is_normal, strict=True):
                assert torch.equal(kept, given)
        assert list(temporary_folder.iterdir()) == []  # its files have no names: nothing is left if it is killed


def test_a_device_is_filled_first():
    size = 2 * (3 * 8 * 6 + 5 * 4 * 3)
    with FeatureCache(size, torch.device("cpu"), 2.5 * size) as cache:
        for features, is_normal in tiles():
            cache.add(features, is_normal)
        assert cache.n_bytes_on_device == 2 * size
        assert cache.n_bytes_in_memory == size
        assert cache.n_bytes_on_disk == size
        for i, (features, _) in enumerate(tiles()):
            assert torch.equal(cache[i].features[0], features[0].half())


def test_many_tiles_share_a_file(monkeypatch):
    """A process may have only some hundred files open."""
    sizes = []

    def allocate(shape, dtype, *, what):
        sizes.append(shape[0])
        return np.empty(shape, dtype)

    monkeypatch.setattr(cache_module, "allocate_on_disk", allocate)
    monkeypatch.setattr(cache_module, "_FEWEST_VALUES", 1000)
    monkeypatch.setattr(cache_module, "_MOST_VALUES", 4000)
    with FeatureCache(0) as cache:
        for features, is_normal in tiles(100):
            cache.add(features, is_normal)
    assert sum(sizes) <= 100 * (3 * 8 * 6 + 5 * 4 * 3) + 2 * 4000
    assert sizes[0] == 1000
    assert max(sizes) == 4000
    assert len(sizes) < 10


@pytest.mark.parametrize("free", [0, 700, 10**9])
def test_a_full_disk_is_told_before_it_is_written_to(free, monkeypatch):
    """Writing to a mapped file for which there is no space ends the process by a bus error."""
    reserved = []

    def reserve(file, start, length):
        if sum(reserved) + length > free:
            raise OSError(errno.ENOSPC, "No space left on device")
        reserved.append(length)
        os.truncate(file, length)

    monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)
    with FeatureCache(0) as cache:
        if free:
            fill(cache, 1)  # with little space, its file is no larger than the tile
        if free < 10**9:
            with pytest.raises(UFlowError, match=r"disk space for features .* MB .*No space left.* TMPDIR"):
                fill(cache)
    assert len(cache) == 0


def test_values_beyond_float16_are_clipped():
    largest = torch.finfo(torch.float16).max
    features = torch.tensor([1e9, -1e9, float("inf"), 2.0]).reshape(1, 2, 2)
    with FeatureCache(1e6) as cache:
        cache.add([features], [torch.ones(2, 2, dtype=torch.bool)])
        assert cache[0].features[0].flatten().tolist() == [largest, -largest, largest, 2.0]


def test_what_is_kept_is_not_what_was_given():
    features = torch.zeros(1, 2, 2, dtype=torch.float16)
    with FeatureCache(1e6) as cache:
        cache.add([features[:, :, :1]], [torch.ones(2, 1, dtype=torch.bool)])
        features += 1
        assert float(cache[0].features[0].sum()) == 0


@pytest.mark.parametrize("limit", [1e9, 0])
def test_the_border_is_replaced_in_memory_and_on_disk(limit):
    """Tiles without a frame stay as they are, and doing it twice changes nothing more."""
    x = torch.arange(64.0).reshape(1, 8, 8)
    with FeatureCache(limit) as cache:
        cache.add([x], [torch.ones(8, 8, dtype=torch.bool)], Window(0, 0, 32, 32))
        cache.add([x], [torch.ones(8, 8, dtype=torch.bool)])
        for _ in range(2):
            cache.apply_border(Border("replicate"), [4])
            assert cache[0].features[0][0, 0].tolist() == [18, 18, 18, 19, 20, 21, 21, 21]
            assert torch.equal(cache[0].features[0][0, 1], cache[0].features[0][0, 2])
            assert torch.equal(cache[1].features[0].float(), x)
