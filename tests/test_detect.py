"""Detection: what it measures, what it leaves out, and what the threshold does."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from napari_uflow.config import DetectionConfig
from napari_uflow.detect import detect, detect_steps, promise, resegment
from napari_uflow.errors import ConfigError, ImageError, Stopped
from napari_uflow.image import Plane, Window
from napari_uflow.model.border import hold
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa import Calibration, CalibrationPicture
from napari_uflow.progress import FINISH, Message, Progress, drain
from napari_uflow.result import RegionTable
from napari_uflow.samples import fibre_field

SQUARE = (slice(40, 80), slice(88, 128))


@pytest.fixture(scope="module")
def network(tiny_model):
    return tiny_model.network("cpu")


@pytest.fixture(scope="module")
def found(tiny_model, odd_plane, network):
    return detect(tiny_model, odd_plane, network=network)


def same(one, other):
    assert one.name == other.name
    for a, b in zip(
        [one.score, one.log10_nfa, one.labels, *one.energies],
        [other.score, other.log10_nfa, other.labels, *other.energies],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for name, values in one.regions.columns().items():
        np.testing.assert_array_equal(values, other.regions.columns()[name])
    assert one.false_alarms == other.false_alarms
    assert one.provenance == other.provenance


# What is found


def test_the_odd_square_is_found(found):
    assert found.log10_nfa[SQUARE].min() < 0
    assert len(found.regions) >= 1
    assert (found.labels[SQUARE] > 0).mean() > 0.2
    assert found.score[SQUARE].mean() > found.score.mean()
    assert found.lowest_log10_nfa == found.regions.log10_nfa[0]


def test_maps_have_their_shapes_types_and_ranges(found, odd_plane):
    assert found.score.shape == found.log10_nfa.shape == found.labels.shape == odd_plane.shape
    assert (found.score.dtype, found.log10_nfa.dtype, found.labels.dtype) == (np.float32, np.float32, np.int32)
    assert 0 <= found.score.min() <= found.score.max() <= 1
    assert np.isfinite(found.log10_nfa).all()
    assert [e.shape for e in found.energies] == [(-(-128 // s), -(-160 // s)) for s in found.strides]
    assert all(e.dtype == np.float32 and (e >= 0).all() for e in found.energies)
    assert (found.name, found.pixel_size, found.unit) == ("odd", (0.5, 0.25), "um")
    assert found.provenance["detection"] == DetectionConfig().to_dict()


def test_labels_are_the_part_below_the_threshold(found):
    np.testing.assert_array_equal(found.labels > 0, found.log10_nfa <= math.log10(found.false_alarms))


def test_labels_are_dense_and_the_most_significant_comes_first(found):
    found = resegment(found, 10.0)
    n = len(found.regions)
    assert set(np.unique(found.labels)) == set(range(n + 1))
    np.testing.assert_array_equal(found.regions.label, np.arange(1, n + 1))
    assert (np.diff(found.regions.log10_nfa) >= 0).all()


def test_the_table_says_what_the_maps_show(found):
    columns = found.regions.columns()
    for i in range(len(found.regions)):
        inside = found.labels == i + 1
        rows, cols = np.nonzero(inside)
        assert columns["area_px"][i] == inside.sum()
        assert columns["area"][i] == pytest.approx(inside.sum() * 0.125)
        assert columns["log10_nfa"][i] == found.log10_nfa[inside].min()
        assert columns["peak_score"][i] == pytest.approx(found.score[inside].max())
        assert columns["mean_score"][i] == pytest.approx(found.score[inside].mean(), rel=1e-5)
        assert columns["centroid_row"][i] == pytest.approx(rows.mean())
        assert columns["centroid_col"][i] == pytest.approx(cols.mean())
        assert (columns["first_row"][i], columns["stop_row"][i]) == (rows.min(), rows.max() + 1)
        assert (columns["first_col"][i], columns["stop_col"][i]) == (cols.min(), cols.max() + 1)


# The threshold


@pytest.mark.parametrize("false_alarms", [1e-12, 1e-3, 1.0, 10.0])
def test_resegmenting_is_detecting_with_the_other_threshold(tiny_model, odd_plane, network, found, false_alarms):
    expected = detect(tiny_model, odd_plane, DetectionConfig(false_alarms=false_alarms), network=network)
    same(resegment(found, false_alarms), expected)


def test_resegmenting_needs_nothing_but_the_detection(found, monkeypatch):
    before = found.labels.copy()
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    strict, lax = resegment(found, 1e-6), resegment(found, 10)
    assert ((strict.labels > 0) <= (found.labels > 0)).all()
    assert ((found.labels > 0) <= (lax.labels > 0)).all()
    np.testing.assert_array_equal(found.labels, before)
    assert strict.false_alarms == 1e-6
    assert found.provenance["detection"]["false_alarms"] == 1.0
    with pytest.raises(ConfigError, match="false_alarms must be"):
        resegment(found, 0)


def test_where_probabilities_come_from(tiny_model, odd_plane, network, found):
    chi2 = detect(tiny_model, odd_plane, DetectionConfig(calibration="none"), network=network)
    np.testing.assert_array_equal(chi2.score, found.score)
    assert not np.array_equal(chi2.log10_nfa, found.log10_nfa)
    bare = TrainedModel(tiny_model.config, tiny_model.training, tiny_model.intensity, tiny_model.state)
    uncalibrated = detect(bare, odd_plane, network=network)
    np.testing.assert_array_equal(uncalibrated.log10_nfa, chi2.log10_nfa)


# Pixels that are not there


@pytest.mark.parametrize(
    ("value", "nfa"),
    [
        (np.nan, "size-conditional"),
        (np.inf, "size-conditional"),
        (-np.inf, "size-conditional"),
        (np.nan, "paper"),
        (np.nan, "binomial"),
    ],
)
def test_missing_pixels_are_not_measured(tiny_model, odd_plane, network, value, nfa):
    image = odd_plane.read()[0]
    image[37:61, 90:105] = value
    plane = Plane(data=image, name="odd")
    found = detect(tiny_model, plane, DetectionConfig(nfa=nfa), network=network)
    missing = ~np.isfinite(image)
    assert np.isnan(found.score[missing]).all()
    assert (found.labels[missing] == 0).all()
    assert np.isfinite(found.log10_nfa).all()
    for energy, stride in zip(found.energies, found.strides, strict=True):
        cells = missing.reshape(128 // stride, stride, 160 // stride, stride).any(axis=(1, 3))
        if network.holds_border:  # positions that have their features from there are not measured either
            cells |= hold(cells, Window(0, 0, 128, 160), stride)
        np.testing.assert_array_equal(np.isnan(energy), cells)
    assert math.isfinite(found.lowest_log10_nfa)
    assert np.isfinite(found.regions.log10_nfa).all()
    again = resegment(found, 1.0)
    np.testing.assert_array_equal(again.labels, found.labels)


@pytest.mark.parametrize("nfa", ["size-conditional", "paper", "binomial"])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1)])
def test_a_picture_of_nothing_has_no_anomaly(tiny_model, network, shape, nfa):
    plane = Plane(data=np.full(shape, np.nan, np.float32))
    found = detect(tiny_model, plane, DetectionConfig(false_alarms=10, nfa=nfa), network=network)
    assert np.isnan(found.score).all()
    assert not found.labels.any()
    assert len(found.regions) == 0
    assert math.isfinite(found.lowest_log10_nfa)


def test_missing_pixels_far_away_change_nothing(tiny_model, network):
    width = 2 * (network.halo + 64)
    image = np.random.default_rng(0).uniform(0, 255, (64, width)).astype(np.float32)
    spoiled = image.copy()
    spoiled[:, -40:] = np.nan
    one, other = (detect(tiny_model, Plane(data=data), network=network) for data in (image, spoiled))
    for a, b, stride in zip(one.energies, other.energies, one.strides, strict=True):
        n = (width - 40 - network.halo) // stride - 1
        np.testing.assert_allclose(a[:, :n], b[:, :n], rtol=1e-4)


# Shapes


@pytest.mark.parametrize("shape", [(110, 700), (700, 17), (1, 1), (16, 16), (33, 129), (5, 64)])
def test_any_shape(tiny_model, network, shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = detect(tiny_model, Plane(data=image), DetectionConfig(tile=256), network=network)
    assert found.score.shape == found.labels.shape == found.log10_nfa.shape == shape
    assert np.isfinite(found.score).all()
    assert all(np.isfinite(e).all() for e in found.energies)


def test_types_and_layouts_of_the_same_picture_give_the_same(tiny_model, odd_plane, network, found):
    image = odd_plane.data
    for data in (image.astype(np.uint16), image.astype(np.float64), np.asfortranarray(image), image[::-1].copy()[::-1]):
        other = detect(tiny_model, Plane(data=data), network=network)
        np.testing.assert_array_equal(other.labels, found.labels)


def test_a_network_is_built_where_none_is_given(tiny_model, odd_plane, found):
    same(detect(tiny_model, odd_plane, device="cpu"), found)


@pytest.mark.parametrize("limit", [1, 2**40])
def test_a_large_picture_in_strips_and_files_gives_the_same(tiny_model, odd_plane, network, found, monkeypatch, limit):
    monkeypatch.setattr("napari_uflow.scratch.LARGE", limit)
    monkeypatch.setattr("napari_uflow.scratch._STRIP_PIXELS", 40 * odd_plane.shape[1])
    again = detect(tiny_model, odd_plane, network=network)
    assert isinstance(again.labels, np.memmap) == (limit == 1)
    for name in ("score", "log10_nfa"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(again.labels, found.labels)
    for name, values in again.regions.columns().items():
        np.testing.assert_allclose(values, found.regions.columns()[name], rtol=1e-6, err_msg=name)
    lower = resegment(again, 0.01)
    np.testing.assert_array_equal(lower.labels, resegment(found, 0.01).labels)


# Events


def test_progress_counts_to_its_end(tiny_model, network):
    events = []
    config = DetectionConfig(tile=128, halo=0)
    detect(tiny_model, Plane(data=np.zeros((64, 400), np.uint8)), config, network=network, on_event=events.append)
    reports = [event for event in events if isinstance(event, Progress) and event.phase == "Detecting"]
    counts = [event.done for event in reports]
    assert counts == sorted(counts)
    assert list(dict.fromkeys(counts)) == list(range(reports[0].total + 1))
    assert reports[0].total > 1


def test_a_picture_that_is_mostly_border_is_warned_of(tiny_model, network):
    for shape, is_told in (((5, 300), True), ((64, 64), False)):
        events = []
        detect(tiny_model, Plane(data=np.zeros(shape, np.uint8)), network=network, on_event=events.append)
        told = [event.text for event in events if isinstance(event, Message) and event.warning]
    assert any("not enough memory for tiles of 768 pixels: 'image' is read in tiles of 384" in text for text in told)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)


def test_an_error_that_is_not_about_memory_is_not_hidden(tiny_model, monkeypatch):
    network = tiny_model.network()

    def broken(x):
        raise RuntimeError("shapes do not fit")
        yield

    monkeypatch.setattr(network, "features_in_pieces", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        detect(tiny_model, Plane(data=np.zeros((64, 64), np.uint8)), network=network)
