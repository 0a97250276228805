"""The parts of held-out images that a model is calibrated on."""

import importlib

import numpy as np
import pytest

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scaled_regions
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.training.calibrate import _calibration_windows, _covered, _normal
from napari_uflow.training.tiles import TrainingTile
from napari_uflow.training.train import train

CALIBRATE = importlib.import_module("napari_uflow.training.calibrate")


def tiles_of(shapes, magnifications):
    """Return one tile of each image, as the network sees it."""
    planes = [Plane(data=np.zeros(shape, np.uint8), name=f"specimen {i}") for i, shape in enumerate(shapes)]
    regions = scaled_regions([NormalRegion(plane) for plane in planes], magnifications)
    return [TrainingTile(region, Window(0, 0, *region.plane.shape)) for region in regions]


@pytest.mark.parametrize(("magnification", "side"), [(1.0, 256), (2.0, 512), (1.5, 384), (0.5, 256)])
def test_the_part_of_an_image_does_not_depend_on_its_magnification(monkeypatch, magnification, side):
    """A smaller image costs less, so that more of it is used."""
    monkeypatch.setattr(CALIBRATE, "_CALIBRATION_SIDE", 256)
    ((_, window),) = _calibration_windows(tiles_of([(640, 800)], magnification), 8)
    assert window.shape == (side, side)
    middle = window.row + side / 2, window.col + side / 2
    assert middle == pytest.approx((320 * magnification, 400 * magnification), abs=8)


@pytest.mark.parametrize("magnifications", [[1.0] * 6, [2.0] * 6, [1.0, 2.0] * 3])
def test_the_number_of_images_does_not_depend_on_their_magnification(monkeypatch, magnifications):
    monkeypatch.setattr(CALIBRATE, "_CALIBRATION_PIXELS", 3.5 * 64 * 64)
    tiles = [
        TrainingTile(NormalRegion(tile.region.plane, None, "one specimen"), tile.window)
        for tile in tiles_of([(64, 64)] * 6, magnifications)
    ]
    assert len(_calibration_windows(tiles, 8)) == 4


class Recorded:
    """An array that counts the pixels of its largest read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.largest = values, values.shape, values.dtype, 0

    def __getitem__(self, key):
        part = self.values[key]
        self.largest = max(self.largest, part.size)
        return part


def test_normal_pixels_of_a_magnified_image_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(CALIBRATE, "_SCAN_TILE", 64)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(150, 170)).astype(np.float32)
    values[rng.integers(0, 150, 20), rng.integers(0, 170, 20)] = np.nan
    data = Recorded(values)
    mask = np.ones(values.shape, bool)
    mask[40:90, 100:120] = False
    (region,) = scaled_regions([NormalRegion(Plane(data=data), mask)], 2.0)
    window = Window(16, 8, 320, 304)  # beyond the image, too
    found = _normal(region, window)
    assert data.largest <= (64 / 2 + 4) ** 2
    assert np.array_equal(found, region.normal(window))
    assert 0 < found.mean() < 1


@pytest.mark.slow
def test_a_magnified_model_is_calibrated_on_as_much_of_its_images(monkeypatch):
    monkeypatch.setattr(CALIBRATE, "_CALIBRATION_SIDE", 128)
    rng = np.random.default_rng(0)
    regions = [
        NormalRegion(Plane(data=rng.integers(0, 256, (256, 256)).astype(np.uint8), name=f"specimen {i}"))
        for i in range(3)
    ]
    n_pixels = []
    for magnification in (1.0, 2.0):
        config = ModelConfig(
            backbone="scattering", tile=64, flow_steps=1, memory_size=100, octaves=1, magnification=magnification
        )
        model = train(regions, config, TrainingConfig(steps=0, augmentations=1, holdout=0.3, max_tiles=20))
        n_pixels.append(model.calibration.n_pixels)
    assert n_pixels[1] == pytest.approx(4 * n_pixels[0])


def test_what_lies_between_held_out_tiles_of_one_specimen_does_not_count(monkeypatch):
    """It was trained on."""
    windows = [Window(0, 0, 16, 32), Window(32, 16, 16, 24)]
    expected = np.zeros((48, 32), bool)
    expected[:16, :16] = expected[32:48, :24] = True
    np.testing.assert_array_equal(_covered(Window(0, 16, 48, 32), windows), expected)
    counted = []
    fit_steps = Calibration.fit_steps

    def recorded(images, *args, **options):
        counted.extend(int(np.isfinite(image.maps[0]).sum()) for image in images)
        return fit_steps(images, *args, **options)

    monkeypatch.setattr(CALIBRATE.Calibration, "fit_steps", recorded)
    image = np.random.default_rng(0).integers(0, 255, (448, 448), dtype=np.uint8)
    model = ModelConfig(backbone="scattering", tile=64, flow_steps=1, octaves=1)
    trained = train([NormalRegion(Plane(data=image))], model, TrainingConfig(steps=0, augmentations=1, max_tiles=12))
    assert trained.record.is_divided_by_place
    assert counted == [trained.record.n_holdout_tiles * 64]
