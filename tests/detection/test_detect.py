"""Detection: what it measures, what it leaves out, and what the threshold does."""

import dataclasses
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect, detect_steps, resegment
from napari_uflow.detection.guarantee import Caveat, GuaranteeKind
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.stack import detect_stack
from napari_uflow.errors import ConfigError, ImageError, Stopped
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.model.energy import likelihood_heatmap
from napari_uflow.model.inference import score_steps
from napari_uflow.model.record import TrainingRecord
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen
from napari_uflow.progress import FINISH, Message, Progress, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.system import scratch

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")

SQUARE = (slice(40, 80), slice(88, 128))


LEVELS = pytest.mark.parametrize("levels", ["joint", "pyramid"])


@pytest.fixture(scope="module")
def network(tiny_model):
    return tiny_model.network("cpu")


@pytest.fixture
def of_levels(tiny_model, tiny_pyramid):
    """The function that returns the tiny model of each kind of levels."""
    return lambda levels: {"joint": tiny_model, "pyramid": tiny_pyramid}[levels]


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
    assert (one.config, one.guarantee) == (other.config, other.guarantee)


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
    assert 0 <= found.score.min() < 2 < found.score.max() < 100
    assert found.strides == (8,)
    assert np.isfinite(found.log10_nfa).all()
    assert [e.shape for e in found.energies] == [(-(-128 // s), -(-160 // s)) for s in found.strides]
    assert all(e.dtype == np.float32 and (e >= 0).all() for e in found.energies)
    assert (found.name, found.pixel_size, found.unit) == ("odd", (0.5, 0.25), "um")
    assert found.config == DetectionConfig()


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
    assert found.config.false_alarms == found.guarantee.false_alarms == 1.0
    with pytest.raises(ConfigError, match="false_alarms must be"):
        resegment(found, 0)


@LEVELS
def test_where_probabilities_come_from(of_levels, odd_plane, levels):
    model = of_levels(levels)
    network = model.network()
    found = detect(model, odd_plane, network=network)
    chi2 = detect(model, odd_plane, DetectionConfig(calibration="none"), network=network)
    np.testing.assert_array_equal(chi2.score, found.score)
    assert not np.array_equal(chi2.log10_nfa, found.log10_nfa)
    bare = replace(model, calibration=None, record=TrainingRecord(), history=())
    uncalibrated = detect(bare, odd_plane, network=network)
    np.testing.assert_array_equal(uncalibrated.log10_nfa, chi2.log10_nfa)


# The heatmap


@LEVELS
def test_rarity_is_the_mean_of_the_tails_of_all_maps(of_levels, odd_plane, levels):
    model = of_levels(levels)
    network = model.network()
    found = detect(model, odd_plane, network=network)
    scores = drain(score_steps(network, model.intensity, odd_plane, phase=None))
    rows, cols = np.arange(8, 128, 16), np.arange(8, 160, 16)  # between the centres of four positions of all strides
    expected = []
    for p, stride in zip(model.calibration.log10_p(scores.tested), scores.tested_strides, strict=True):
        at = [(at / stride - 0.5) for at in (rows + 0.5, cols + 0.5)]
        expected.append(map_coordinates(-p, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest"))
    np.testing.assert_allclose(found.score[np.ix_(rows, cols)], np.mean(expected, axis=0), rtol=1e-4, atol=1e-4)


@LEVELS
def test_one_of_a_thousand_normal_positions_is_as_rare_as_it_says(of_levels, normal_planes, levels):
    """Of the held-out image, which the tails were fitted to."""
    model = of_levels(levels)
    (held_out,) = [plane for plane in normal_planes if plane.name in model.record.holdout_specimens]
    network = model.network()
    scores = drain(score_steps(network, model.intensity, held_out, phase=None))
    varied = [p for p, x in zip(model.calibration.log10_p(scores.tested), scores.tested, strict=True) if x.std() > 1e-3]
    assert varied
    for p in varied:  # a flow that learned nothing predicts the same variance everywhere
        for decades in (0.5, 1.0, 2.0):
            assert np.mean(-p >= decades) == pytest.approx(10**-decades, rel=0.6, abs=2 / p.size)


@LEVELS
def test_a_model_without_calibration_has_a_rarity_too(of_levels, odd_plane, levels):
    bare = replace(of_levels(levels), calibration=None)
    found = detect(bare, odd_plane, device=DEVICE)
    assert found.score.min() >= 0
    assert found.score[SQUARE].mean() > found.score.mean()
    published = detect(bare, odd_plane, DetectionConfig(heatmap="published"), device=DEVICE)
    np.testing.assert_array_equal(found.log10_nfa, published.log10_nfa)


@LEVELS
def test_the_published_heatmap(of_levels, odd_plane, levels):
    found = detect(of_levels(levels), odd_plane, DetectionConfig(heatmap="published"), device=DEVICE)
    expected = likelihood_heatmap([torch.from_numpy(energy)[None] for energy in found.energies], odd_plane.shape)
    np.testing.assert_allclose(found.score, expected[0].numpy(), atol=1e-5)
    assert 0 <= found.score.min() < found.score.max() <= 1
    assert found.config.heatmap_limits[1] == 1


def test_black_is_where_normal_positions_are(found, normal_planes, tiny_model):
    low, high = found.config.heatmap_limits
    assert 0 < low < high
    trained = [plane for plane in normal_planes if plane.name in tiny_model.record.specimens]
    for plane in trained:
        assert np.mean(detect(tiny_model, plane, device=DEVICE).score > low) < 0.05


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
@LEVELS
def test_missing_pixels_are_not_measured(of_levels, odd_plane, levels, value, nfa):
    model = of_levels(levels)
    network = model.network()
    image = odd_plane.read()[0]
    image[37:61, 90:105] = value
    plane = Plane(data=image, name="odd")
    found = detect(model, plane, DetectionConfig(nfa=nfa), network=network)
    missing = ~np.isfinite(image)
    assert np.isnan(found.score[missing]).all()
    assert np.isfinite(found.score).sum() > 0.9 * found.score.size
    assert (found.labels[missing] == 0).all()
    assert np.isfinite(found.log10_nfa).all()
    for energy, stride in zip(found.energies, found.strides, strict=True):
        cells = missing.reshape(128 // stride, stride, 160 // stride, stride).any(axis=(1, 3))
        # positions that have their features from there are not measured either
        cells |= network.border.apply(cells, Window(0, 0, 128, 160), stride)
        np.testing.assert_array_equal(np.isnan(energy), cells)
    assert math.isfinite(found.lowest_log10_nfa)
    assert np.isfinite(found.regions.log10_nfa).all()
    again = resegment(found, 1.0)
    np.testing.assert_array_equal(again.labels, found.labels)


@pytest.mark.parametrize("nfa", ["size-conditional", "paper", "binomial"])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1)])
def test_a_image_of_nothing_has_no_anomaly(tiny_model, network, shape, nfa):
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


def test_types_and_layouts_of_the_same_image_give_the_same(tiny_model, odd_plane, network, found):
    image = odd_plane.data
    for data in (image.astype(np.uint16), image.astype(np.float64), np.asfortranarray(image), image[::-1].copy()[::-1]):
        other = detect(tiny_model, Plane(data=data), network=network)
        np.testing.assert_array_equal(other.labels, found.labels)


def test_a_network_is_built_where_none_is_given(tiny_model, odd_plane, found):
    same(detect(tiny_model, odd_plane, device=DEVICE), found)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2**40])
def test_a_large_image_in_strips_and_files_gives_the_same(tiny_model, odd_plane, network, found, monkeypatch, limit):
    monkeypatch.setattr("napari_uflow.system.scratch.LARGE", limit)
    monkeypatch.setattr("napari_uflow.system.scratch._STRIP_PIXELS", 40 * odd_plane.shape[1])
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


def test_a_image_that_is_mostly_border_is_warned_of(tiny_model, network):
    for shape, is_told in (((5, 300), True), ((64, 64), False)):
        events = []
        detect(tiny_model, Plane(data=np.zeros(shape, np.uint8)), network=network, on_event=events.append)
        told = [
            event for event in events if isinstance(event, Message) and event.warning and "only 5 x 300" in event.text
        ]
        assert bool(told) == is_told


def test_a_tile_need_not_be_finished_to_stop(tiny_model, network):
    steps = detect_steps(tiny_model, Plane(data=np.zeros((64, 64), np.uint8)), DetectionConfig(), network=network)
    events = [next(steps) for _ in range(3)]
    assert {event.done for event in events if isinstance(event, Progress)} == {0}
    with pytest.raises(Stopped):
        steps.send(FINISH)


@pytest.mark.slow
def test_finish_at_any_event_stops(tiny_model, odd_plane, network):
    def job():
        return detect_steps(tiny_model, odd_plane, DetectionConfig(), network=network)

    events = []
    drain(job(), events.append)
    for asked_at in range(len(events)):
        seen = []
        with pytest.raises(Stopped):
            drain(job(), seen.append, lambda seen=seen, asked_at=asked_at: len(seen) == asked_at + 1)
        assert len(seen) == asked_at + 1


@pytest.mark.parametrize("is_enabled", [True, False])
def test_no_grad_mode_leaks_to_the_caller(tiny_model, odd_plane, network, is_enabled):
    with torch.set_grad_enabled(is_enabled):
        for _ in detect_steps(tiny_model, odd_plane, DetectionConfig(), network=network):
            assert torch.is_grad_enabled() is is_enabled
            assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("pixel_size", "unit", "is_warned"),
    [
        ((0.5, 0.5), "um", False),
        ((0.55, 0.45), "um", False),
        ((1.0, 1.0), "um", True),  # brought to the pixel size of training
        ((2.5, 2.5), "um", True),
        ((0.1, 0.1), "um", True),
        ((0.5, 0.2), "um", True),
        (None, None, False),
        ((500, 500), "nm", False),
        ((500, 500), "um", True),
        ((1.0, 1.0), "furlong", False),
    ],
)
def test_another_pixel_size_is_warned_of(tiny_model, odd_plane, network, pixel_size, unit, is_warned):
    record = TrainingRecord(pixel_size=(0.5, 0.5), unit="um")
    model = replace(tiny_model, calibration=None, record=record)
    plane = Plane(data=odd_plane.data, name="odd", pixel_size=pixel_size, unit=unit)
    events = []
    detect(model, plane, network=network, on_event=events.append)
    warnings = [event.text for event in events if isinstance(event, Message) and event.warning]
    assert bool(warnings) is is_warned
    if warnings:
        assert "trained on pixels of 0.5 um" in warnings[0]


def test_other_channels_are_refused(tiny_model, network):
    plane = Plane(data=np.zeros((2, 64, 64), np.uint8), axes="CYX", name="two")
    with pytest.raises(ImageError, match="'two' has 2 channels, but the model was trained on 1"):
        detect(tiny_model, plane, network=network)


def test_nothing_found_is_an_empty_table():
    zeros = np.zeros((4, 6), np.float32)
    table = RegionTable.measure(np.zeros((4, 6), np.int32), zeros, zeros)
    assert len(table) == 0
    assert list(table.rows()) == []


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30])
@pytest.mark.parametrize("calibration", ["conformal", "tails", "none"])
@LEVELS
def test_latents_that_explode_have_the_highest_score_and_are_not_missing(
    of_levels, monkeypatch, levels, value, calibration
):
    model = of_levels(levels)
    network = model.network()
    original = network.latents_in_chunks
    stride = network.strides[0]
    row, col = 40 // stride, 80 // stride

    def latents(*arguments):
        found = yield from original(*arguments)
        found.z[0][..., row, col] = value
        return found

    monkeypatch.setattr(network, "latents_in_chunks", latents)
    plane = Plane(data=np.random.default_rng(0).integers(0, 256, (64, 128)).astype(np.uint8))
    found = detect(model, plane, DetectionConfig(calibration=calibration), network=network)
    assert np.isfinite(found.energies[0]).all()
    assert np.isfinite(found.score).all()
    assert np.isfinite(found.log10_nfa).all()
    assert found.energies[0].argmax() == row * (128 // stride) + col
    if levels == "joint":
        assert found.score.max() == found.score[40:48, 80:88].max()
    if calibration == "none":  # the corners of a region are rounded
        assert found.labels[{"joint": np.s_[42:46, 82:86], "pyramid": np.s_[40:44, 80:84]}[levels]].all()


# Other tests, and what a number of false alarms rests on


@pytest.mark.parametrize(
    "options",
    [{"nfa": "paper"}, {"nfa": "binomial"}, {"calibration": "tails"}, {"calibration": "none"}],
)
def test_every_test_of_the_literature_runs_on_the_same_heatmap(tiny_model, odd_plane, network, found, options):
    other = detect(tiny_model, odd_plane, DetectionConfig(**options), network=network)
    np.testing.assert_array_equal(other.score, found.score)
    assert np.isfinite(other.log10_nfa).all()
    assert other.log10_nfa.shape == odd_plane.shape
    again = resegment(other, 0.5)
    assert again.config == DetectionConfig(**options, false_alarms=0.5)


def test_the_paper_test_flags_what_is_too_normal_only_as_published(tiny_model, monkeypatch):
    network = tiny_model.network()
    original = network.latents_in_chunks

    def quiet(*arguments):
        found = yield from original(*arguments)
        for z in found.z:
            torch.nn.init.normal_(z, std=0.5)
        return found

    monkeypatch.setattr(network, "latents_in_chunks", quiet)
    plane = Plane(data=np.random.default_rng(0).integers(0, 256, (64, 128)).astype(np.uint8))
    paper = detect(tiny_model, plane, DetectionConfig(nfa="paper"), network=network)
    published = detect(tiny_model, plane, DetectionConfig(nfa="paper", as_published=True), network=network)
    assert len(paper.regions) == 0
    assert (published.labels > 0).mean() > 0.9


@pytest.mark.parametrize("name", ["window_size", "binomial_probability_thr", "high_precision"])
def test_parameters_of_the_binomial_test_reach_it(tiny_model, odd_plane, network, name):
    value = {"window_size": 11.0, "binomial_probability_thr": 0.5, "high_precision": True}[name]
    one = detect(tiny_model, odd_plane, DetectionConfig(nfa="binomial"), network=network)
    other = detect(tiny_model, odd_plane, DetectionConfig.from_dict({"nfa": "binomial", name: value}), network=network)
    assert not np.array_equal(one.log10_nfa, other.log10_nfa)


def test_another_number_of_false_alarms_has_another_guarantee(tiny_model, found):
    assert found.guarantee.n_specimens == tiny_model.calibration.offset.n_specimens
    assert found.offset == tiny_model.calibration.offset
    assert resegment(found, 0.01).guarantee == found.guarantee.at(0.01, found.offset)
    assert resegment(found, 0.01).guarantee.false_alarms == 0.01


def warnings_of(model, plane, network):
    events = []
    drain(detect_steps(model, plane, DetectionConfig(), network=network), events.append)
    return [event.text for event in events if isinstance(event, Message) and event.warning]


def test_another_exposure_is_warned_of(tiny_model, normal_planes, network):
    plane = normal_planes[0]
    assert not any("darker or brighter" in text for text in warnings_of(tiny_model, plane, network))
    bright = plane.read()[0].copy()
    bright[len(bright) // 2 :] = 1e4  # the lower half alone
    (text,) = [t for t in warnings_of(tiny_model, Plane(data=bright), network) if "darker or brighter" in t]
    assert 50 <= int(text.split("%")[0]) < 60
    low, high = tiny_model.intensity.low[0], tiny_model.intensity.high[0]
    assert (
        f"(real numbers) are darker or brighter than the training images, whose values are {low:g} to {high:g}" in text
    )
    (text,) = [
        t for t in warnings_of(tiny_model, Plane(data=np.full((64, 64), 43000, np.uint16)), network) if "16 bits" in t
    ]
    assert text.startswith("100% of the pixels of")


def of_area(model, n_pixels, n_specimens=20):
    """Return a model whose held-out images have another area, and a region each."""
    specimens = tuple(HeldOutSpecimen(str(i), ((-2.0 + i / 10,),), (n_pixels,)) for i in range(n_specimens))
    calibration = dataclasses.replace(model.calibration, offset=ConformalOffset(specimens), n_pixels=n_pixels)
    return dataclasses.replace(model, calibration=calibration)


def test_a_larger_image_is_several_calibrated_areas(tiny_model, odd_plane, network):
    """The accepted number is for the whole image, which is held to a part of it per calibrated area."""
    config = DetectionConfig(false_alarms=0.1)
    maps = drain(score_steps(network, tiny_model.intensity, odd_plane)).tested
    n_pixels = tiny_model.calibration.measured_area(maps)
    same, large = (detect(of_area(tiny_model, n_pixels / k), odd_plane, config, network=network) for k in (1, 14))
    assert (same.guarantee.n_areas, large.guarantee.n_areas) == (1, 14)
    assert same.guarantee.is_guaranteed
    assert large.guarantee.kind is GuaranteeKind.EXTRAPOLATED
    assert large.guarantee.n_specimens_needed == 139
    assert f"14 calibrated areas ({n_pixels / 14 * 0.125:.3g} um^2 each)" in large.guarantee.text()
    calibration = of_area(tiny_model, n_pixels / 14).calibration
    lowest = calibration.guaranteed(test.run() for test in calibration.tests(maps))[0].log10_nfa[0]
    assert large.lowest_log10_nfa == pytest.approx(lowest + math.log10(14), abs=1e-5)
    unknown = dataclasses.replace(odd_plane, pixel_size=None, unit=None)
    text = detect(of_area(tiny_model, n_pixels / 14), unknown, config, network=network).guarantee.text()
    assert f"14 calibrated areas ({n_pixels / 14:.0f} pixels each)" in text


@LEVELS
def test_an_image_out_of_distribution_raises_a_warning(of_levels, odd_plane, levels):
    rng = np.random.default_rng(0)
    n_maps = {"joint": 1, "pyramid": 6}[levels]
    maps = (tuple(rng.normal(-5, 0.1, (9, 9)) for _ in range(n_maps)) for _ in range(5))
    images = [CalibrationImage(str(i), own) for i, own in enumerate(maps)]
    model = of_levels(levels)
    network = model.network()
    calibration = drain(Calibration.fit_steps(images, network.strides * (n_maps // len(network.strides))))
    model = dataclasses.replace(model, calibration=calibration)
    assert any("as a whole differs from" in text for text in warnings_of(model, odd_plane, network))


@pytest.mark.slow
def test_tiles_that_do_not_fit_the_memory_are_halved(tiny_model, monkeypatch):
    network = tiny_model.network()
    plane = Plane(data=fibre_field(3, shape=(300, 500)).image)
    expected = detect(tiny_model, plane, network=network)
    original = network.features_in_chunks

    def small_memory(x):
        if max(x.shape[-2:]) > 400:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return (yield from original(x))

    monkeypatch.setattr(network, "features_in_chunks", small_memory)
    events = []
    found = detect(tiny_model, plane, network=network, on_event=events.append)
    told = [event.text for event in events if isinstance(event, Message) and event.warning]
    # the image as a whole, then in halves
    assert any("not enough memory for tiles of 512 pixels: 'image' is read in tiles of 256" in text for text in told)
    np.testing.assert_allclose(found.energies[0], expected.energies[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-3)


def test_an_error_that_is_not_about_memory_is_not_hidden(tiny_model, monkeypatch):
    network = tiny_model.network()

    def broken(x):
        raise RuntimeError("shapes do not fit")
        yield

    monkeypatch.setattr(network, "features_in_chunks", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        detect(tiny_model, Plane(data=np.zeros((64, 64), np.uint8)), network=network)


def test_a_guarantee_does_not_hold_for_another_exposure(tiny_model, odd_plane, network, found):
    assert found.guarantee.caveats == ()
    bright = Plane(data=255 - odd_plane.data // 64)
    other = detect(tiny_model, bright, network=network)
    for guarantee in (other.guarantee, resegment(other, 0.5).guarantee):
        assert Caveat.BRIGHTNESS in guarantee.caveats
        assert not guarantee.holds
        assert guarantee.text().startswith(f"the number {Caveat.BRIGHTNESS.value}")


def test_what_is_no_plane_is_refused_in_words(tiny_model, odd_plane, network):
    with pytest.raises(ImageError, match=r"must be a Plane.* not ndarray"):
        detect(tiny_model, odd_plane.data, network=network)
    with pytest.raises(ImageError, match="must be a list of planes"):
        detect_stack(tiny_model, odd_plane, network=network)


# Stacks


@pytest.mark.slow
@pytest.mark.parametrize("nfa", ["size-conditional", "paper", "binomial"])
def test_the_planes_of_a_stack_share_the_false_alarms(tiny_model, odd_plane, network, nfa):
    """A number of false alarms per stack of four planes reports the regions of a quarter of it per image."""
    planes = [dataclasses.replace(odd_plane, name=str(i)) for i in range(4)]
    shared = detect_stack(
        tiny_model, planes, DetectionConfig(nfa=nfa, false_alarms=2.0, false_alarms_per="stack"), network=network
    )
    apart = detect_stack(tiny_model, planes, DetectionConfig(nfa=nfa, false_alarms=0.5), network=network)
    for one, other in zip(shared, apart, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        inside = one.labels > 0
        assert inside.any()
        np.testing.assert_allclose(one.log10_nfa[inside], other.log10_nfa[inside] + math.log10(4), rtol=1e-6)
        again = resegment(one, 0.02)
        np.testing.assert_array_equal(again.labels, resegment(other, 0.005).labels)
        assert (one.guarantee.n_images, again.guarantee.n_images, other.guarantee.n_images) == (4, 4, 1)


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [2e5, 3e4])
def test_maps_of_a_stack_lie_in_files_where_they_are_large_together(
    tiny_model, odd_plane, network, monkeypatch, n_bytes
):
    """A thousand planes that are small each would fill the memory; one file each would be too many files."""
    planes = [odd_plane] * 3 + [Plane(data=odd_plane.data.T.copy())] * (n_bytes == 3e4)
    in_memory = detect_stack(tiny_model, planes, DetectionConfig(), network=network)
    assert 4 * odd_plane.data.size < 2e5 < 3 * 4 * odd_plane.data.size
    monkeypatch.setattr(scratch, "LARGE", n_bytes)
    in_files = detect_stack(tiny_model, planes, DetectionConfig(), network=network)
    for one, other in zip(in_memory, in_files, strict=True):
        for name in ("score", "log10_nfa", "labels"):
            assert isinstance(getattr(other, name), np.memmap)
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    if n_bytes == 2e5:
        assert in_files[0].score.base is in_files[1].score.base


def test_an_image_alone_is_no_stack(tiny_model, odd_plane, network, found):
    alone = detect_stack(tiny_model, [odd_plane], DetectionConfig(false_alarms_per="stack"), network=network)[0]
    np.testing.assert_array_equal(alone.log10_nfa, found.log10_nfa)
    assert alone.guarantee == found.guarantee
