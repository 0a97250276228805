"""Trainings on images of several pixel sizes: the network sees all of them at one."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.detection.magnification import magnification_of
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scale_of
from napari_uflow.progress import Message
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.pixel_size import reference_pixel_size, working_regions
from napari_uflow.training.tiles import regions_of
from napari_uflow.training.train import train

TRAIN = importlib.import_module("napari_uflow.training.train")

MODEL = ModelConfig(backbone="scattering", tile=64, flow_steps=1, memory_size=100)
TRAINING = TrainingConfig(steps=0, augmentations=1, holdout=0.3)


def region_of(size, unit="um", shape=(64, 128), name="image", **options):
    """Return a region of smooth noise whose grain is 0.15 um, in pixels of a size; coarser images are smaller."""
    scale = 0.1 / size if size is not None and unit == "um" else 1.0
    noise = np.random.default_rng(sum(name.encode())).normal(size=[round(n * scale) for n in shape])
    smooth = ndimage.gaussian_filter(noise, 1.5 * scale)
    pixels = (128 + 30 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    pixel_size = None if size is None else (size, size)
    unit = None if size is None else unit
    return NormalRegion(Plane(data=pixels, name=name, pixel_size=pixel_size, unit=unit), **options)


def mixed():
    sizes = [0.1, 0.2, 0.1, 0.2, 0.1, 0.05]
    return [region_of(size, name=f"specimen {i}") for i, size in enumerate(sizes)]


def texts_of(events, *, warning=False):
    return [event.text for event in events if isinstance(event, Message) and event.warning == warning]


def test_images_are_brought_to_their_median_and_the_others_to_the_magnification():
    regions = [
        *mixed(),
        region_of(None, name="uncalibrated"),
        region_of(200, "nm", name="nanometres"),
        region_of(0.102, name="alike"),
        region_of(0.9, name="too far"),
        region_of(0.2, "furlong", name="incomparable"),
    ]
    reference = reference_pixel_size(regions, None)
    assert reference == PixelSize(0.102, 0.102, "um")
    reference = PixelSize(0.1, 0.1, "um")
    config = MODEL.replace(magnification=2.0)
    found = [scale_of(region.plane) for region in working_regions(regions, config, reference)]
    assert found == pytest.approx([2, 4, 2, 4, 2, 1, 2, 4, 2, 2, 2])
    assert working_regions(regions, MODEL, reference)[0] is regions[0]


def test_an_image_counts_once_however_many_regions_it_has():
    fine, coarse = region_of(0.1), region_of(0.2)
    again = [NormalRegion(coarse.plane, np.ones(coarse.plane.shape, bool)) for _ in range(3)]
    assert reference_pixel_size([fine, coarse, *again], None) == PixelSize(0.1, 0.1, "um")


@pytest.mark.parametrize("magnification", [1.0, 2.0])
def test_a_training_sees_its_images_as_a_detection_does(monkeypatch, tmp_path, magnification):
    regions = [*mixed(), region_of(None, name="specimen 6"), region_of(0.9, shape=(576, 576), name="specimen 7")]
    splits = []

    def choose_tiles(*args):
        splits.append(original(*args))
        return splits[-1]

    original = TRAIN.choose_tiles
    monkeypatch.setattr(TRAIN, "choose_tiles", choose_tiles)
    events = []
    model = train(regions, MODEL.replace(magnification=magnification), TRAINING, on_event=events.append)
    assert (model.record.pixel_size, model.record.unit) == ((0.1, 0.1), "um")
    assert model.record.pixel_size_range == pytest.approx((0.5, 2))
    assert (
        "3 of 8 images resampled to a pixel size of 0.1 um, the median of the images; 1 image without a comparable "
        "pixel size taken as they are"
    ) in texts_of(events)
    assert [text for text in texts_of(events, warning=True) if "'specimen 7': 0.9 um" in text]
    seen = {tile.region.specimen: tile.region.plane for tile in splits[0].train + splits[0].holdout}
    expected = {region.specimen: magnification_of(model, region.plane) for region in regions}
    assert {name: scale_of(plane) for name, plane in seen.items()} == pytest.approx(expected)
    assert {plane.pixel_size and plane.pixel_size[0] for plane in seen.values()} == {0.1 / magnification, None} | {
        0.9 / magnification
    }

    save_model(tmp_path / "model.safetensors", model)
    assert load_model(tmp_path / "model.safetensors").record == model.record


def test_images_of_one_size_are_not_resampled():
    events = []
    regions = [region_of(0.1 + 0.001 * i, name=f"specimen {i}") for i in range(3)]
    model = train(regions, MODEL, TRAINING, on_event=events.append)
    assert model.record.pixel_size == (0.101, 0.101)
    assert model.record.pixel_size_range == (1, 1)
    assert not [text for text in texts_of(events) if "resampled" in text]


def test_a_resumed_training_keeps_the_pixel_size_of_its_model(monkeypatch):
    model = train([region_of(0.1, name=f"specimen {i}") for i in range(3)], MODEL, TRAINING)
    new = [region_of(0.2, name=f"specimen {i}") for i in range(3)]
    mask = np.zeros(new[0].plane.shape, bool)
    mask[:16, :16] = True
    new.append(NormalRegion(new[0].plane, mask, "specimen 0", is_marked_normal=True))
    fitted = []
    original = TRAIN.fill_cache

    def fill_cache(cache, network, tiles, *rest):
        fitted.extend(regions_of(tiles))
        return original(cache, network, tiles, *rest)

    monkeypatch.setattr(TRAIN, "fill_cache", fill_cache)
    events = []
    resumed = train(new, MODEL, TRAINING, init_from=model, on_event=events.append)
    assert (resumed.record.pixel_size, resumed.record.unit) == ((0.1, 0.1), "um")
    assert resumed.record.pixel_size_range == pytest.approx((1, 2))
    assert "3 of 3 images resampled to a pixel size of 0.1 um, that of the model" in texts_of(events)
    assert any(region.is_marked_normal for region in fitted)
    assert all(scale_of(region.plane) == pytest.approx(2) for region in fitted)

    fitted.clear()
    unknown = replace(model, record=replace(model.record, pixel_size=None, unit=None))
    resumed = train(new, MODEL, TRAINING, init_from=unknown)
    assert resumed.record.pixel_size is None
    assert all(scale_of(region.plane) == 1 for region in fitted)


@pytest.mark.parametrize("size", [0.1, 0.15, 0.2])
def test_sizes_between_those_of_the_training_images_are_no_caveat(size):
    from napari_uflow.detection.caveats import acquisition_caveats

    model = train(mixed(), MODEL, TRAINING)
    plane = region_of(size, shape=(128, 128), name="new").plane
    assert acquisition_caveats(model, plane, magnification_of(model, plane)) == []
    single = replace(model, record=replace(model.record, pixel_size_range=(1.0, 1.0)))
    assert bool(acquisition_caveats(single, plane, magnification_of(model, plane))) == (size != 0.1)
