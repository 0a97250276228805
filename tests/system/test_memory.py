"""Tiles are as large as the memory allows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.config import ModelConfig
from napari_uflow.model.uflow import UFlow
from napari_uflow.system import devices
from napari_uflow.system.devices import memory_for_tiles
from napari_uflow.system.memory import LARGEST_TILE, SMALLEST_TILE, detection_bytes, tile_that_fits

SIDES = st.integers(64, 60_000)


@given(SIDES, SIDES, st.floats(1, 50), st.sampled_from([80, 112, 144]), st.integers(28, 448), st.floats(1e8, 4e10))
def test_the_largest_tile_that_fits_is_chosen(rows, cols, values, halo, flow_halo, memory):
    looks = (values, halo, flow_halo)
    tile = tile_that_fits((rows, cols), *looks, memory)
    assert SMALLEST_TILE <= tile <= LARGEST_TILE
    if tile > SMALLEST_TILE:
        assert detection_bytes((rows, cols), tile, *looks) <= memory
    if tile < LARGEST_TILE:
        assert detection_bytes((rows, cols), tile + 128, *looks) > memory


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ModelConfig(), [2048, 768, 768]),
        (ModelConfig(backbone="scattering"), [2048, 640, 512]),
        (ModelConfig(backbone="scattering", levels="pyramid"), [2048, 768, 512]),
    ],
)
def test_a_wide_image_is_read_in_smaller_tiles(config, expected):
    network = UFlow(config, 1)
    assert [network.tile_that_fits((side, side), 0.7e9) for side in (512, 2048, 10_000)] == expected


def test_a_processor_gives_a_part_of_what_is_free(monkeypatch):
    class Memory:
        available = 1e9

    monkeypatch.setattr(devices.psutil, "virtual_memory", Memory)
    assert memory_for_tiles(torch.device("cpu")) == 0.25e9
    Memory.available = 64e9
    assert memory_for_tiles(torch.device("cpu")) == 0.7e9


def test_a_gpu_gives_half_of_what_is_free_and_of_what_torch_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10e9, 24e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4e9)
    assert memory_for_tiles(torch.device("cuda:0")) == pytest.approx(6e9)
