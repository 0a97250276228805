"""The table of regions, against numbers that can be counted by eye."""

import math
from dataclasses import replace

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.guarantee import Caveat, Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection

LABELS = np.array([[2, 2, 0, 0], [0, 2, 0, 1], [0, 0, 0, 1]], np.int32)
NFA = np.array([[-1, -3, 9, 9], [9, -2, 9, -7], [9, 9, 9, -7]], np.float32)
SCORE = np.array([[0.5, 0.6, 0, 0], [0, 0.7, 0, 0.9], [0, 0, 0, 0.8]], np.float32)


def detection(labels=LABELS, **options) -> Detection:
    regions = RegionTable.measure(labels, NFA, SCORE, options.get("pixel_size"))
    return Detection(
        name="plane",
        score=SCORE,
        log10_nfa=NFA,
        labels=labels,
        regions=regions,
        energies=(),
        strides=(4,),
        config=DetectionConfig(),
        guarantee=Guarantee(false_alarms=1.0),
        **options,
    )


def test_measured_by_eye():
    one, two = RegionTable.measure(LABELS, NFA, SCORE, (0.5, 2.0)).rows()
    assert one == pytest.approx(
        {
            "label": 1,
            "log10_nfa": -7,
            "area_px": 2,
            "area": 2.0,
            "centroid_row": 1.5,
            "centroid_col": 3,
            "first_row": 1,
            "first_col": 3,
            "stop_row": 3,
            "stop_col": 4,
            "peak_score": 0.9,
            "mean_score": 0.85,
            "is_edited": 0,
        }
    )
    assert two == pytest.approx(
        {
            "label": 2,
            "log10_nfa": -3,
            "area_px": 3,
            "area": 3.0,
            "centroid_row": 1 / 3,
            "centroid_col": 2 / 3,
            "first_row": 0,
            "first_col": 0,
            "stop_row": 2,
            "stop_col": 2,
            "peak_score": 0.7,
            "mean_score": 0.6,
            "is_edited": 0,
        }
    )
    assert all(type(value) in (int, float) for value in one.values())


def test_the_area_is_unknown_without_a_pixel_size():
    assert np.isnan(RegionTable.measure(LABELS, NFA, SCORE).area).all()


def test_types_of_columns():
    columns = RegionTable.measure(LABELS, NFA, SCORE).columns()
    kinds = {name: values.dtype for name, values in columns.items()}
    assert kinds["label"] == np.int32
    assert kinds["area_px"] == kinds["stop_row"] == np.int64
    assert kinds["log10_nfa"] == kinds["area"] == np.float64
    assert kinds["peak_score"] == np.float32
    assert {len(values) for values in columns.values()} == {2}


def test_missing_scores_are_left_out():
    score = SCORE.copy()
    score[1, 3] = np.nan
    table = RegionTable.measure(LABELS, NFA, score)
    assert math.isclose(table.peak_score[0], 0.8, rel_tol=1e-6)
    assert np.isfinite(table.mean_score).all()


def test_lowest_log10_nfa_of_an_image():
    assert detection().lowest_log10_nfa == -7
    assert "array" not in repr(detection())


@pytest.mark.parametrize("shape", [(0, 0), (3, 4)])
def test_empty_maps_have_empty_tables(shape):
    zeros = np.zeros(shape, np.float32)
    assert len(RegionTable.measure(zeros.astype(np.int32), zeros, zeros)) == 0


def test_labels_of_a_stack_go_on():
    first = detection()
    second = first.numbered_after(2)
    assert second.regions.label.tolist() == [3, 4]
    np.testing.assert_array_equal(second.labels, np.where(LABELS > 0, LABELS + 2, 0))
    assert second.labels.dtype == np.int32
    assert first.numbered_after(0) is first
    assert first.regions.label.tolist() == [1, 2]


@pytest.mark.parametrize(("caveat", "is_judged"), [(Caveat.DRIFT, False), (Caveat.BRIGHTNESS, False)])
def test_an_image_that_the_guarantee_excludes_was_not_judged(caveat, is_judged):
    found = detection()
    assert found.is_judged
    assert replace(found, guarantee=replace(found.guarantee, caveats=(caveat,))).is_judged is is_judged


def test_an_image_without_a_measured_pixel_was_not_judged():
    found = replace(detection(), score=np.full(SCORE.shape, np.nan, np.float32))
    assert not found.is_measured
    assert not found.is_judged
