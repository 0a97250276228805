"""Cached features: those of the whole image, in eight augmentations."""

import numpy as np
import pytest
import torch

from napari_uflow.config import ModelConfig
from napari_uflow.errors import Stopped
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.joint import APERTURES
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Progress, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.training.cache import FeatureCache
from napari_uflow.training.features import augmented, augmented_window, fill_cache
from napari_uflow.training.tiles import TrainingTile

INTENSITY = IntensityRange((0.0,), (255.0,))


@pytest.fixture(scope="module", params=["joint", "pyramid"])
def network(request):
    return UFlow(ModelConfig(backbone="scattering", tile=64, flow_steps=1, levels=request.param), 1)


@pytest.fixture(scope="module")
def plane():
    return Plane(data=fibre_field(2, shape=(200, 150)).image)


def filled(network, region, windows, n_augmentations=1) -> FeatureCache:
    cache = FeatureCache(1e9)
    tiles = [TrainingTile(region, window) for window in windows]
    drain(fill_cache(cache, network, tiles, INTENSITY, n_augmentations, "Computing"))
    return cache


def whole_features(network, plane):
    """Features of the whole image, as detection computes them."""
    aligned = Window(0, 0, *(-(-n // 16) * 16 for n in plane.shape))
    outer = network.reading_window(aligned, plane.shape)
    levels = network.features(torch.from_numpy(INTENSITY.apply(plane.read(outer)))[None])
    inner = aligned.shifted(-outer.row, -outer.col)
    return [x[0, :, inner.row // s :, inner.col // s :] for x, s in zip(levels, network.strides, strict=True)]


# Views


def test_eight_augmentations_are_the_eight_symmetries_of_a_square():
    square = torch.arange(9).reshape(3, 3)
    found = {tuple(augmented(square, k).flatten().tolist()) for k in range(8)}
    expected = {
        tuple(part.flatten().tolist())
        for turns in range(4)
        for part in (torch.rot90(square, turns), torch.rot90(square, turns).T)
    }
    assert found == expected
    assert torch.equal(augmented(square, 0), square)
    assert augmented(torch.zeros(2, 3, 5), 3).shape == (2, 3, 5)
    assert augmented(torch.zeros(2, 3, 5), 4).shape == (2, 5, 3)


@pytest.mark.parametrize("k", range(8))
def test_a_window_is_found_again_after_augmentation(k):
    image = torch.arange(7 * 11).reshape(7, 11)
    window = Window(2, 3, 4, 5)
    inside = augmented(image, k)[augmented_window(window, (7, 11), k).slices()]
    assert torch.equal(inside, augmented(image[window.slices()], k))


# The cache


def test_tiles_have_the_features_of_the_whole_image(network, plane):
    windows = [Window(0, 0, 64, 64), Window(64, 48, 64, 64), Window(144, 96, 64, 64)]
    whole = whole_features(network, plane)
    if network.is_joint:  # wide features, too, whose neighbours are in other tiles
        assert whole[0].shape[0] == APERTURES * network.channels[0]
    for together in (True, False):
        cache = (
            filled(network, NormalRegion(plane), windows)
            if together
            else [filled(network, NormalRegion(plane), [window])[0] for window in windows]
        )
        for window, tile in zip(windows, [cache[i] for i in range(3)], strict=True):
            for level, (x, stride) in enumerate(zip(whole, network.strides, strict=True)):
                expected = x[:, *window.scaled(stride).slices()]
                torch.testing.assert_close(tile.features[level].float(), expected, rtol=2e-3, atol=2e-3)


def test_augmentations_have_the_features_of_the_augmented_image(network, plane):
    window = Window(64, 32, 64, 96)
    region = NormalRegion(plane)
    cache = filled(network, region, [window], n_augmentations=8)
    assert len(cache) == 8
    outer = network.reading_window(window, plane.shape)
    image = torch.from_numpy(INTENSITY.apply(plane.read(outer)))
    for k in range(8):
        turned = augmented_window(window.shifted(-outer.row, -outer.col), outer.shape, k)
        assert turned.shape == ((96, 64) if k & 4 else (64, 96))
        levels = network.features(augmented(image, k)[None])
        if k:
            levels = network.of_flow(levels)
        for x, kept, stride in zip(levels, cache[k].features, network.strides, strict=True):
            torch.testing.assert_close(kept, x[0][:, *turned.scaled(stride).slices()].half())


def test_augmented_tiles_are_told_from_others_and_have_the_features_of_the_flow_alone(network, plane):
    cache = filled(network, NormalRegion(plane), [Window(0, 0, 64, 64), Window(64, 32, 64, 64)], n_augmentations=3)
    tiles = [cache[i] for i in range(6)]
    assert [tile.origin.is_augmented for tile in tiles] == [False, False, True, True, True, True]
    assert [tile.origin.tile for tile in tiles] == [0, 1] * 3
    for tile in tiles:
        channels = [n if tile.origin.is_augmented or not network.is_joint else APERTURES * n for n in network.channels]
        assert [len(x) for x in tile.features] == channels
        assert [len(x) for x in network.of_flow(tile.features)] == list(network.channels)


def test_only_cells_that_are_normal_throughout_count(network, plane):
    mask = np.ones(plane.shape, bool)
    mask[70, 50] = False
    window = Window(64, 32, 64, 96)
    cache = filled(network, NormalRegion(plane, mask), [window], n_augmentations=8)
    inside = torch.from_numpy(mask[window.slices()])
    for k in range(8):
        for normal, stride in zip(cache[k].is_normal, network.strides, strict=True):
            expected = torch.ones(64 // stride, 96 // stride, dtype=torch.bool)
            expected[6 // stride, 18 // stride] = False
            assert torch.equal(normal, augmented(expected, k))
    assert not inside.all()


def test_missing_pixels_and_what_lies_outside_do_not_count(network):
    image = np.random.default_rng(0).uniform(0, 255, (60, 70)).astype(np.float32)
    image[8:12, 20:24] = np.nan
    cache = filled(network, NormalRegion(Plane(data=image)), [Window(0, 0, 64, 80)])
    tile = cache[0]
    assert all(bool(torch.isfinite(x).all()) for x in tile.features)
    if network.is_joint:
        (middle,) = tile.is_normal
        assert middle.shape == (8, 10)
        assert not middle[1, 2]
        assert not middle[7].any()
        assert not middle[:, 8:].any()
        assert middle[:7, :8].sum() == 7 * 8 - 1
        return
    fine, middle, coarse = tile.is_normal
    assert fine.shape == (16, 20)
    assert not fine[2, 5]
    assert not fine[15].any()  # rows 60 to 63 are outside of the image
    assert not fine[:, 17:].any()  # column 70 is
    assert fine[:15, :17].sum() == 15 * 17 - 1
    assert middle[:7, :8].sum() == 7 * 8 - 1
    assert coarse[:3, :4].sum() == 3 * 4 - 1


def test_a_tile_that_is_given_twice_has_one_number(network, plane):
    windows = [Window(0, 64 * i, 64, 64) for i in (1, 0, 1)]
    cache = filled(network, NormalRegion(plane), windows, 2)
    assert [cache[i].origin.tile for i in range(6)] == [0, 1, 0, 0, 1, 0]


def test_progress_comes_before_each_augmentation_and_at_the_end(network, plane):
    region = NormalRegion(plane)
    tiles = [TrainingTile(region, Window(0, 64 * i, 64, 64)) for i in range(2)]
    events = []
    with FeatureCache(1e9) as cache:
        drain(fill_cache(cache, network, tiles, INTENSITY, 2, "Computing"), events.append)
    assert events[0] == Progress("Computing", 0, 4)
    assert events[-1] == Progress("Computing", 4, 4)
    counts = [event.done for event in events]
    assert counts == sorted(counts)
    assert set(counts) == {0, 2, 4}
    with FeatureCache(1e9) as cache, pytest.raises(Stopped):
        drain(fill_cache(cache, network, tiles, INTENSITY, 2, "Computing"), None, lambda: True)
