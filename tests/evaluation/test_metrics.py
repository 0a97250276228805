"""Laws of the metrics, each held against the plainest computation of its definition."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.evaluation import metrics
from napari_uflow.evaluation.summary import Evaluation, evaluate_maps


def draw(seed, *, n_levels=None, n_images=5):
    """Images of different sizes, the first one normal, with noisy scores; `n_levels` quantises them to make ties."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n_images):
        shape = tuple(rng.integers(8, 20, size=2))
        mask = (ndimage.gaussian_filter(rng.normal(size=shape), 1.0) > 0.25) & (i > 0)
        score = (rng.normal(size=shape) + mask).astype(np.float32)
        if n_levels is not None:
            score = np.round(score * n_levels / 4)
        maps.append(score)
        masks.append(mask)
    return maps, masks


def auroc_by_pairs(scores, labels):
    positive = [s for s, y in zip(scores, labels, strict=True) if y]
    negative = [s for s, y in zip(scores, labels, strict=True) if not y]
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(positive, negative)]
    return sum(wins) / len(wins)


def aupro_by_thresholds(maps, masks, max_fpr):
    """Every threshold, every region, then trapezoids: the definition."""
    regions = []
    for score, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [score[labels == k] for k in range(1, count + 1)]
    normal = np.concatenate([score[~mask] for score, mask in zip(maps, masks, strict=True)])
    thresholds = np.unique(np.concatenate([score.ravel() for score in maps]))[::-1]
    fpr = np.array([0.0] + [np.mean(normal >= t) for t in thresholds])
    pro = np.array([0.0] + [np.mean([np.mean(r >= t) for r in regions]) for t in thresholds])
    # Of equal abscissae np.interp takes the last: the top of a vertical step, which is what the limit sees.
    pro_at_limit = np.interp(max_fpr, fpr, pro)
    keep = fpr < max_fpr
    return np.trapezoid(np.append(pro[keep], pro_at_limit), np.append(fpr[keep], max_fpr)) / max_fpr


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_chance_that_an_anomalous_item_wins(items):
    scores, labels = zip(*items, strict=True)
    found = metrics.auroc(scores, labels)
    if all(labels) or not any(labels):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(auroc_by_pairs(scores, labels), abs=1e-12)


def test_auroc_takes_infinities_and_refuses_nan():
    assert metrics.auroc([-np.inf, 0.0, np.inf], [False, False, True]) == 1.0
    with pytest.raises(ImageError, match="NaN"):
        metrics.auroc([0.0, np.nan], [False, True])
    with pytest.raises(ImageError, match="2 and 1"):
        metrics.auroc([0.0, 1.0], [True])


@pytest.mark.parametrize("n_levels", [None, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_pixel_auroc_is_auroc_over_all_pixels(seed, n_levels):
    maps, masks = draw(seed, n_levels=n_levels, n_images=3)
    scores = np.concatenate([m.ravel() for m in maps])
    labels = np.concatenate([m.ravel() for m in masks])
    assert metrics.pixel_auroc(maps, masks) == pytest.approx(auroc_by_pairs(scores, labels), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("n_levels", [None, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_aupro_is_the_area_under_the_curve_of_all_thresholds(seed, n_levels, max_fpr):
    maps, masks = draw(seed, n_levels=n_levels)
    expected = aupro_by_thresholds(maps, masks, max_fpr)
    assert metrics.aupro(maps, masks, max_fpr) == pytest.approx(expected, abs=1e-12)


def test_aupro_by_hand():
    """One region of 1 pixel that is found first, one of 3 pixels that is found last.

    ::

        #......      the curve stands at 1/2 for every false positive rate
        ....###
    """
    score = np.array([[9, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 0, 0, 0]], dtype=np.float32)
    mask = np.zeros((2, 7), dtype=bool)
    mask[0, 0] = mask[1, 4:] = True
    assert metrics.aupro([score], [mask]) == pytest.approx(0.5)
    assert metrics.aupro([mask.astype(np.float32)], [mask]) == 1.0
    assert metrics.aupro([np.zeros((2, 7))], [mask], 1.0) == pytest.approx(0.5)


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.eye(4, dtype=bool)
    flagged = np.zeros((4, 4), dtype=int)
    flagged[0, 0] = 1
    assert metrics.region_recall([flagged], [mask]) == 1.0
    assert metrics.region_recall([flagged], [mask], 0.25) == 1.0
    assert metrics.region_recall([flagged], [mask], 0.26) == 0.0


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.1, math.nan])
def test_aupro_refuses_a_limit_out_of_range(max_fpr):
    maps, masks = draw(0)
    with pytest.raises(ConfigError, match="max_fpr"):
        metrics.aupro(maps, masks, max_fpr)


@pytest.mark.parametrize("n_levels", [None, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_beats_the_oracle(seed, n_levels):
    maps, masks = draw(seed, n_levels=n_levels)
    best, threshold = metrics.oracle_iou(maps, masks)
    assert metrics.iou([m >= threshold for m in maps], masks) == best
    candidates = np.unique(np.concatenate([m.ravel() for m in maps]))
    assert best == max(metrics.iou([m >= t for m in maps], masks) for t in candidates)


def test_iou_pools_and_mean_iou_averages():
    truth = [np.array([[1, 1, 0, 0]], dtype=bool), np.array([[1, 0, 0, 0]], dtype=bool), np.zeros((1, 4), dtype=bool)]
    pred = [np.array([[0, 5, 5, 0]]), np.array([[2, 0, 0, 0]]), np.array([[0, 0, 0, 3]])]
    assert metrics.iou(pred, truth) == pytest.approx(2 / 5)
    assert metrics.mean_iou(pred, truth) == pytest.approx((1 / 3 + 1) / 2)
    assert math.isnan(metrics.iou(truth[2:], truth[2:]))
    assert math.isnan(metrics.mean_iou(pred[2:], truth[2:]))


def test_false_alarms():
    labels = [np.array([[1, 1, 0, 2], [0, 0, 0, 7]]), np.zeros((2, 4), dtype=int)]
    assert metrics.false_alarms_per_image(labels) == 1.5
    assert metrics.fraction_with_false_alarm(labels) == 0.5
    assert metrics.false_area_fraction(labels) == 4 / 16
    assert metrics.false_alarms_per_image([np.array([[True, False, True]])]) == 2.0
    assert math.isnan(metrics.false_alarms_per_image([]))
    assert math.isnan(metrics.fraction_with_false_alarm([]))
    assert math.isnan(metrics.false_area_fraction([]))


def test_evaluation_holds_what_the_functions_say():
    maps, masks = draw(3)
    labels = [ndimage.label(m > 0.5)[0] for m in maps]
    found = evaluate_maps(maps, masks, labels)
    normal = [x for x, m in zip(labels, masks, strict=True) if not m.any()]
    assert found == Evaluation(
        n_normal=1,
        n_anomalous=4,
        n_true_regions=metrics.regions_found(labels, masks)[1],
        image_auroc=metrics.auroc([m.max() for m in maps], [m.any() for m in masks]),
        pixel_auroc=metrics.pixel_auroc(maps, masks),
        aupro=metrics.aupro(maps, masks),
        iou=metrics.iou(labels, masks),
        mean_iou=metrics.mean_iou(labels, masks),
        oracle_iou=metrics.oracle_iou(maps, masks)[0],
        region_recall=metrics.region_recall(labels, masks),
        false_alarms_per_image=metrics.false_alarms_per_image(normal),
        fraction_with_false_alarm=metrics.fraction_with_false_alarm(normal),
        false_area_fraction=metrics.false_area_fraction(normal),
    )
    assert evaluate_maps(maps, masks, labels, image_scores=[9, 1, 1, 1, 1]).image_auroc == 0.0
    assert found.iou <= found.oracle_iou


def test_fractions_are_shown_with_their_numbers():
    masks = [np.zeros((4, 8), bool) for _ in range(5)]
    masks[3][0, 0] = masks[3][3, 7] = masks[4][2, 2] = True
    labels = [mask.astype(int) for mask in masks]
    labels[1][1, 1] = 1  # a false alarm
    labels[4][:] = 0  # missed
    table = evaluate_maps([mask.astype(float) for mask in masks], masks, labels).as_table("a").splitlines()
    lines = {line[:40].strip(): line[40:].strip() for line in table}
    assert lines["true regions detected"] == "66.7%  (2 of 3)"
    assert lines["normal images with a false alarm"] == "33.3%  (1 of 3)"
    assert lines["image AUROC"] == "1.000"


def test_truth_for_whole_images_gives_image_metrics_only():
    maps = [np.zeros((2, 2)), np.ones((2, 2))]
    empty = [np.zeros((2, 2), dtype=bool)] * 2
    labels = [np.zeros((2, 2), dtype=int), np.eye(2, dtype=int)]
    found = evaluate_maps(maps, empty, labels, is_anomalous=[False, True])
    assert (found.n_normal, found.n_anomalous, found.image_auroc) == (1, 1, 1.0)
    assert found.false_alarms_per_image == 0.0
    assert all(math.isnan(x) for x in (found.pixel_auroc, found.aupro, found.iou, found.mean_iou, found.region_recall))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["aupro"] is None
    table = found.as_table("fibres").splitlines()
    assert table[0] == "fibres: 1 normal, 1 anomalous"
    assert table[2].split() == ["image", "AUROC", "1.000"]
    assert table[3].split() == ["pixel", "AUROC", "-"]


def test_a_set_without_images_says_nothing():
    found = evaluate_maps([], [], [])
    assert (found.n_normal, found.n_anomalous) == (0, 0)
    assert all(value is None for key, value in found.to_dict().items() if not key.startswith("n_"))


def test_images_that_do_not_fit_are_refused():
    score, mask = np.zeros((2, 3)), np.zeros((2, 3), dtype=bool)
    with pytest.raises(ImageError, match=r"score_maps\[0\].*\(2, 3\) and \(3, 2\)"):
        metrics.pixel_auroc([score], [mask.T])
    with pytest.raises(ImageError, match="1 and 2"):
        metrics.aupro([score], [mask, mask])
    with pytest.raises(ImageError, match=r"score_maps\[0\] must not hold NaN"):
        metrics.pixel_auroc([score * np.nan], [mask])
    with pytest.raises(ImageError, match="is_anomalous"):
        evaluate_maps([score], [mask], [mask], is_anomalous=[True, False])
    with pytest.raises(ImageError, match="image 0 is normal but"):
        evaluate_maps([score], [~mask], [mask], is_anomalous=[False])
    with pytest.raises(ConfigError, match="min_overlap"):
        metrics.region_recall([mask], [mask], 2.0)
