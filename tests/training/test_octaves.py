"""Octaves: what is learned at half the size, and how it joins the evidence."""

import os

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_uflow.config import ModelConfig, training_preset
from napari_uflow.detection.detect import detect
from napari_uflow.image.grid import Window
from napari_uflow.image.interpolation import interpolated
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scaled_plane, scaled_regions
from napari_uflow.model.inference import score_steps
from napari_uflow.model.memory import key_of, specimen_part
from napari_uflow.progress import Message, drain
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.octaves import _half_steps, octaves_for
from napari_uflow.training.tiles import choose_tiles
from napari_uflow.training.train import train

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")
MODEL = ModelConfig(tile=128, flow_steps=1, octaves=2)
INSTANT = training_preset("instant").replace(holdout=0.3)


def region(name, seed, shape=(256, 448)):
    """Smooth noise, uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    image = (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    return NormalRegion(Plane(data=image, name=name))


def regions(n=6):
    return [region(f"specimen {i}", i) for i in range(n)]


@pytest.fixture(scope="module")
def model():
    return train(regions(), MODEL, INSTANT, device=DEVICE)


@pytest.mark.parametrize(("side", "n"), [(80, 1), (256, 1), (319, 1), (320, 2), (640, 3), (5000, 3)])
def test_octaves_follow_from_the_size_of_the_images(side, n):
    planes = [Plane(data=np.zeros((side, side + 200), np.uint8), name=str(i)) for i in range(3)]
    chosen = [NormalRegion(plane) for plane in planes]
    assert octaves_for(chosen, MODEL.replace(octaves=0)) == n
    assert octaves_for(chosen, MODEL.replace(octaves=4)) == 4
    assert octaves_for(chosen, ModelConfig(levels="pyramid", octaves=2)) == 1


def test_the_evidence_is_the_largest_of_all_octaves(model):
    network = model.network(DEVICE)
    plane = region("new", 9, (120, 150)).plane
    coarser, network.coarser = network.coarser, None
    fine = drain(score_steps(network, model.intensity, plane)).evidence[0]
    coarse = drain(score_steps(coarser, model.intensity, scaled_plane(plane, 0.5))).evidence[0]
    network.coarser = coarser
    both = drain(score_steps(network, model.intensity, plane)).evidence[0]
    enlarged = interpolated(coarse, 2.0, 0, *fine.shape)
    np.testing.assert_allclose(both, np.maximum(fine, enlarged), atol=1e-4)
    assert (fine > enlarged).any()
    assert (fine < enlarged).any()


@pytest.mark.parametrize("window", [Window(0, 0, 64, 64), Window(32, 48, 80, 96), Window(16, 80, 104, 70)])
def test_a_window_has_the_evidence_of_the_whole_image(model, window):
    network = model.network(DEVICE)
    plane = region("new", 9, (120, 150)).plane
    whole = drain(score_steps(network, model.intensity, plane)).evidence[0]
    part = drain(score_steps(network, model.intensity, plane, window=window)).evidence[0]
    rows, cols = (slice(at // 8, at // 8 + n) for at, n in zip((window.row, window.col), part.shape, strict=True))
    np.testing.assert_allclose(part, whole[rows, cols], atol=1e-3)


def test_octaves_share_the_backbone_and_are_saved(model, tmp_path):
    network = model.network(DEVICE)
    assert network.coarser.backbone is network.backbone
    assert not any(key.startswith("coarser.backbone") for key in model.state)
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config.octaves == 2
    plane = region("new", 9).plane
    np.testing.assert_array_equal(detect(loaded, plane, device=DEVICE).score, detect(model, plane, device=DEVICE).score)


def test_all_octaves_remember_the_same_specimens(model):
    known = {int(specimen_part(torch.tensor(key_of(name)))) for name in model.record.all_specimens}
    for prefix in ("", "coarser."):
        assert set(specimen_part(model.state[f"{prefix}memory.keys"]).tolist()) == known


def test_a_specimen_is_left_out_in_all_octaves(model):
    network = model.network(DEVICE)
    name = model.record.holdout_specimens[0]
    plane = next(one.plane for one in regions() if one.plane.name == name)
    coarser = network.coarser
    small = scaled_plane(plane, 0.5)
    known = drain(score_steps(coarser, model.intensity, small)).evidence[0]
    with network.remembering_others(name):
        new = drain(score_steps(coarser, model.intensity, small)).evidence[0]
    assert np.median(new - known) > 0.2


def test_a_place_held_out_is_held_out_in_all_octaves():
    only = [region("only", 0, (1024, 768))]
    network = train(only, MODEL, INSTANT, device=DEVICE).network(DEVICE)
    split = choose_tiles(only, 128, 16, INSTANT, np.random.default_rng(0))
    assert split.is_divided_by_place
    halves = scaled_regions(only, 0.5)
    half = drain(_half_steps(network.coarser, only, halves, split, INSTANT, np.random.default_rng(0)))
    assert half.is_divided_by_place
    for tile in half.train:
        for other in split.holdout:
            one, two = tile.window, other.window
            apart = 2 * one.stop_row <= two.row or two.stop_row <= 2 * one.row
            assert apart or 2 * one.stop_col <= two.col or two.stop_col <= 2 * one.col


def test_an_octave_of_too_few_positions_is_left_out():
    model = train(regions(3), MODEL.replace(octaves=3), INSTANT, device=DEVICE)
    assert model.config.octaves == 1
    assert not any(key.startswith("coarser") for key in model.state)
    assert detect(model, regions(1)[0].plane, device=DEVICE).score.shape == (256, 448)


def test_a_resumed_model_keeps_its_octaves(model):
    again = train([*regions(), region("specimen 9", 9)], None, INSTANT, init_from=model, device=DEVICE)
    assert again.config.octaves == 2
    known = {int(specimen_part(torch.tensor(key_of(name)))) for name in again.record.all_specimens}
    assert set(specimen_part(again.state["coarser.memory.keys"]).tolist()) == known


def test_octaves_of_a_resumed_model_stay_although_its_images_are_few(model):
    few = [one for one in regions() if one.plane.name in model.record.specimens[:1]]
    again = train(few, None, INSTANT, init_from=model, device=DEVICE)
    assert again.config.octaves == 2
    assert torch.equal(again.state["coarser.memory.vectors"], model.state["coarser.memory.vectors"])


def test_a_single_specimen_of_which_nothing_is_held_out_has_one_octave():
    parts = [NormalRegion(region(f"part {i}", i).plane, None, "one") for i in range(6)]
    events = []
    training = INSTANT.replace(holdout=0.0)
    model = train(parts, MODEL, training, device=DEVICE, on_event=events.append)
    assert model.config.octaves == 1
    assert any(isinstance(event, Message) and "1/2 of the size" in event.text for event in events)


def test_octaves_do_not_change_the_finest_one(model):
    one = train(regions(), MODEL.replace(octaves=1), INSTANT, device=DEVICE)
    for key, value in one.state.items():
        assert torch.equal(value, model.state[key])


def test_pixels_of_integers_are_not_read_to_find_missing_ones():
    class Unread(np.ndarray):
        def __getitem__(self, key):
            raise AssertionError("it was read")

    plane = scaled_plane(scaled_plane(Plane(data=np.zeros((64, 96), np.uint8).view(Unread)), 0.5), 0.5)
    assert plane.read_valid().all()
    missing = scaled_plane(Plane(data=np.full((64, 96), np.nan, np.float32)), 0.5)
    assert not missing.read_valid().any()
