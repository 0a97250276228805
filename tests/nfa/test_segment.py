from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from napari_uflow.nfa.counts import LOG10_BETA, log10_tests_for_any_size, log10_tests_published
from napari_uflow.nfa.drawing import combine_levels
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.nfa.segment import LevelRegions, published_regions, significant_regions
from napari_uflow.nfa.significance import chernoff_log10_tail, chi2_log10_tail
from napari_uflow.nfa.tree import best_regions
from napari_uflow.system import scratch

PAPER = np.load(Path(__file__).parents[1] / "data" / "tree_paper.npz")


def energy_of(z):
    return (np.asarray(z, dtype=np.float64) ** 2).mean(0)


def regions_of(z, n_levels=1):
    energy = energy_of(z)
    return significant_regions(chi2_log10_tail(energy, len(z)), log10_tests_for_any_size(energy.size, n_levels))


# The published test


@pytest.mark.parametrize("i", range(4))
def test_published_maps(i):
    z, expected = PAPER[f"z_{i}"], PAPER[f"log10p_{i}"]
    energy = energy_of(z)
    (level,) = published_regions([energy], [len(z)], one_sided=False)
    log10_p = level.log10_nfa_map() - log10_tests_published([energy.size])
    np.testing.assert_allclose(log10_p, expected, rtol=1e-4)  # also NaN where the other is; theirs is float32
    (one_sided,) = published_regions([energy], [len(z)])
    is_defect = expected < -5
    assert is_defect.any()
    np.testing.assert_array_equal(
        (one_sided.log10_nfa_map() - log10_tests_published([energy.size]))[is_defect], log10_p[is_defect]
    )


@pytest.mark.parametrize("key", [key for key in PAPER if key.startswith("log10_tests_")])
def test_published_counts(key):
    sizes = [int(size) for size in key.removeprefix("log10_tests_").split("_")]
    assert log10_tests_published(sizes) == pytest.approx(float(PAPER[key]), rel=1e-6)


def test_all_levels_pay_one_published_price():
    energies = [np.full((2, 2), 9.0), np.full((1, 1), 9.0)]
    fine, coarse = published_regions(energies, [4, 6])
    log10_n_tests = log10_tests_published([4, 1])
    np.testing.assert_allclose(fine.log10_nfa, [log10_n_tests + 4 * chernoff_log10_tail(9.0, 4)])
    np.testing.assert_allclose(coarse.log10_nfa, [log10_n_tests + chernoff_log10_tail(9.0, 6)])
    with pytest.raises(ValueError, match="got 2 and 1"):
        published_regions(energies, [4])


# False alarms and detections


def test_false_alarms_of_normal_latents():
    rng = np.random.default_rng(11)
    n_draws = 200
    best = []
    for _ in range(n_draws):
        levels = [regions_of(rng.standard_normal(shape), n_levels=2) for shape in ((16, 24, 24), (32, 12, 12))]
        best.append(np.concatenate([level.log10_nfa for level in levels]))
    best = np.concatenate(best)
    for epsilon in (1.0, 0.1):
        assert np.count_nonzero(best < np.log10(epsilon)) / n_draws <= epsilon + 3 * np.sqrt(epsilon / n_draws)
    assert np.count_nonzero(best < 0.0) / n_draws <= 1.0
    assert np.count_nonzero(best < 2.0) > 0  # the test is not passed by finding nothing at all


@pytest.mark.parametrize("std", [0.1, 0.5, 0.9, 0.95])
def test_too_normal_latents_are_not_flagged(std):
    z = std * np.random.default_rng(5).standard_normal((64, 28, 28))
    assert not np.any(regions_of(z).log10_nfa < 0)
    (one_sided,) = published_regions([energy_of(z)], [64])
    assert not np.any(one_sided.log10_nfa < 0)


def test_published_code_flags_too_normal_latents_whole():
    z = 0.9 * np.random.default_rng(5).standard_normal((816, 28, 28))
    (two_sided,) = published_regions([energy_of(z)], [816], one_sided=False)
    assert np.all(two_sided.log10_nfa_map(background=0.0) < 0)


def test_two_identical_defects_are_both_found():
    energy = np.random.default_rng(2).uniform(0.8, 1.1, (28, 28))
    energy[5:8, 4:7] = energy[15:18, 20:23] = 30.0
    levels = [
        significant_regions(chi2_log10_tail(energy, 32), log10_tests_for_any_size(784)),
        *published_regions([energy], [32], one_sided=False),
    ]
    for level in levels:
        found = level.log10_nfa_map() < 0
        np.testing.assert_array_equal(found, energy == 30.0)
        assert level.log10_nfa[0] == level.log10_nfa[1] < 0


def test_small_defect_costs_the_same_on_a_larger_map():
    # One position of energy 2.1 of 84 channels is found on a million positions; the published test needs 35,009.
    energy = np.ones((1024, 1024))
    energy[500, 500] = 2.1
    level = significant_regions(chi2_log10_tail(energy, 84), log10_tests_for_any_size(energy.size, 3))
    assert level.log10_nfa.size == 1
    assert level.log10_nfa[0] < 0


@pytest.mark.parametrize("value", [3e38, np.inf, 1e30, 1e5])
def test_saturated_defect_is_found(value):
    energy = np.ones((12, 12), dtype=np.float32)
    energy[4:6, 4:6] = value
    log10_nfas = [
        significant_regions(chi2_log10_tail(energy, 816), log10_tests_for_any_size(144)),
        *published_regions([energy], [816]),
    ]
    for level in log10_nfas:
        assert np.all(np.isfinite(level.log10_nfa))
        image = combine_levels([level], [4], (48, 48), background=10.0)
        assert np.all(np.isfinite(image))
        assert np.all(image[17:23, 17:23] < -1e4)
        assert label_mask(image, 0.0).max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 6)])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_normal_constant_maps_have_no_region(shape, value):
    energy = np.full(shape, value)
    level = significant_regions(chi2_log10_tail(energy, 16), log10_tests_for_any_size(energy.size))
    (published,) = published_regions([energy], [16])
    for found in (level, published):
        assert found.log10_nfa.size == 0
        assert np.all(np.isnan(found.log10_nfa_map()))
    two_sided = published_regions([energy], [16], one_sided=False)[0]
    assert np.all(np.isfinite(two_sided.log10_nfa))


def test_single_anomalous_position():
    level = significant_regions(np.array([[-9.0]]), log10_n_tests=2.0)
    np.testing.assert_array_equal(level.labels, [[1]])
    np.testing.assert_allclose(level.log10_nfa, [2.0 - 9.0 + LOG10_BETA])


@settings(deadline=None)
@given(
    npst.arrays(
        np.float64,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0.0, -0.3, -LOG10_BETA, -0.62, -0.7, -1.5, -4.0, np.nan]),
    ),
    st.floats(0, 9),
)
def test_early_stop_equals_the_whole_map(log10_p, log10_n_tests):
    level = significant_regions(log10_p, log10_n_tests)
    labels, log10_value = best_regions(-log10_p, log10_p + LOG10_BETA)
    whole = LevelRegions(labels, log10_n_tests + log10_value).log10_nfa_map(background=np.inf)
    stopped = level.log10_nfa_map(background=np.inf)
    np.testing.assert_array_equal(np.where(whole < log10_n_tests, whole, np.inf), stopped)


# Drawing


def level_of(labels):
    labels = np.array(labels, dtype=np.int32)
    return LevelRegions(labels, -np.arange(labels.max(), 0, -1, dtype=np.float64))


@pytest.mark.parametrize(("stride", "n_pixels"), [(1, 1), (2, 4), (4, 12), (8, 52)])
def test_area_of_one_position(stride, n_pixels):
    labels = np.zeros((5, 5), dtype=np.int32)
    labels[1, 3] = 1
    image = combine_levels([level_of(labels)], [stride], (5 * stride, 5 * stride), background=7.0)
    inside = image < 7
    block = np.zeros_like(inside)
    block[stride : 2 * stride, 3 * stride : 4 * stride] = True
    assert np.count_nonzero(inside) == n_pixels
    assert not np.any(inside & ~block)
    np.testing.assert_array_equal(inside, np.roll(inside[::-1], -2 * stride, axis=0))
    np.testing.assert_array_equal(image[inside], -1.0)


def test_outline_by_hand():
    # x is region, at stride 4. Shares at the pixel nearest to a corner: own 0.625 * 0.625 = 0.39 < 0.4, so the outer
    # corners of the angle lose one pixel and its inner corner wins one; straight borders stay.
    image = combine_levels(
        [level_of([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])], [4], (16, 16), background=0.0
    )
    drawn = ["".join(".x"[int(pixel < 0)] for pixel in row[4:12]) for row in image[4:12]]
    assert drawn == [
        ".xx.....",
        "xxxx....",
        "xxxx....",
        "xxxxx...",
        "xxxxxxx.",
        "xxxxxxxx",
        "xxxxxxxx",
        ".xxxxxx.",
    ]
    assert np.count_nonzero(image) == sum(row.count("x") for row in drawn)


def test_image_border_is_not_rounded():
    image = combine_levels([level_of([[1, 0], [0, 0]])], [8], (16, 16), background=0.0)
    assert np.count_nonzero(image) == 64 - 3  # one corner of the block is inside the image
    assert image[0, 0] == image[0, 7] == image[7, 0] == -1.0


@settings(deadline=None)
@given(
    npst.arrays(np.int32, npst.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3)),
    st.sampled_from([1, 2, 3, 4, 7, 16]),
)
def test_every_position_keeps_its_centre(labels, stride):
    image = combine_levels(
        [LevelRegions(labels, np.array([-3.0, -2.0, -1.0]))],
        [stride],
        (labels.shape[0] * stride, labels.shape[1] * stride),
        background=5.0,
    )
    centre = stride // 2
    values = np.array([5.0, -3.0, -2.0, -1.0])
    np.testing.assert_array_equal(image[centre::stride, centre::stride], values[labels])


def test_large_region_keeps_its_area():
    rows, cols = np.mgrid[:40, :40]
    labels = ((rows - 19.3) ** 2 + (cols - 20.1) ** 2 < 15**2).astype(np.int32)
    image = combine_levels([level_of(labels)], [16], (640, 640), background=0.0)
    assert np.count_nonzero(image) == pytest.approx(labels.sum() * 256, rel=1e-3)


def test_lowest_level_wins():
    fine = LevelRegions(np.array([[1, 1], [0, 0]], dtype=np.int32), np.array([-5.0]))
    coarse = LevelRegions(np.array([[1]], dtype=np.int32), np.array([-2.0]))
    for levels, strides in (([fine, coarse], [2, 4]), ([coarse, fine], [4, 2])):
        image = combine_levels(levels, strides, (4, 4), background=3.0)
        np.testing.assert_array_equal(image, [[-5] * 4] * 2 + [[-2] * 4] * 2)
        assert image.dtype == np.float32


def test_no_level_and_values_above_the_background():
    np.testing.assert_array_equal(combine_levels([], [], (2, 3), background=4.0), np.full((2, 3), 4.0))
    weak = LevelRegions(np.ones((2, 2), dtype=np.int32), np.array([9.0]))
    np.testing.assert_array_equal(combine_levels([weak], [1], (2, 2), background=4.0), np.full((2, 2), 4.0))


def test_level_may_stick_out_but_must_cover():
    level = level_of([[1, 1], [1, 1]])
    assert np.all(combine_levels([level], [4], (5, 7), background=0.0) == -1.0)
    with pytest.raises(ValueError, match="does not cover"):
        combine_levels([level], [4], (9, 8), background=0.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        combine_levels([level], [0], (2, 2), background=0.0)
    with pytest.raises(ValueError, match="got 1 and 2"):
        combine_levels([level], [4, 8], (8, 8), background=0.0)


def test_mask_is_labelled_by_significance():
    log10_nfa = np.array([[-1.0, 9, 9, -3], [9, 9, -2, 9], [-1, 9, 9, np.nan]])
    np.testing.assert_array_equal(label_mask(log10_nfa, -1.0), [[2, 0, 0, 1], [0, 0, 1, 0], [3, 0, 0, 0]])
    np.testing.assert_array_equal(
        label_mask(log10_nfa, -1.0, connectivity=1), [[3, 0, 0, 1], [0, 0, 2, 0], [4, 0, 0, 0]]
    )
    np.testing.assert_array_equal(label_mask(log10_nfa, -1.5), [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert label_mask(log10_nfa.astype(np.float32), -9.0).dtype == np.int32
    assert not label_mask(np.full((3, 3), np.nan), 0.0).any()


def test_mask_borders():
    with pytest.raises(ValueError, match="connectivity must be 1 or 2, got 8"):
        label_mask(np.zeros((2, 2)), 0.0, connectivity=8)
    with pytest.raises(ValueError, match="got shape"):
        label_mask(np.zeros(4), 0.0)


# Large images are worked on in strips


@given(
    npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-3, 3)),
    st.sampled_from([1, 2]),
    st.integers(1, 40),
)
def test_strips_label_as_the_whole_map_is_labelled(values, connectivity, strip_pixels):
    expected, n = ndimage.label(values <= -1.0, ndimage.generate_binary_structure(2, connectivity))
    lowest = ndimage.minimum(values, expected, np.arange(1, n + 1))
    rank = np.argsort(lowest, kind="stable")
    wanted = np.zeros_like(expected)
    for number, label in enumerate(rank + 1, start=1):
        wanted[expected == label] = number
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "_STRIP_PIXELS", strip_pixels)
        np.testing.assert_array_equal(label_mask(values, -1.0, connectivity), wanted)


@pytest.mark.parametrize("strip_pixels", [1, 50, 130])
def test_strips_draw_the_same_image(monkeypatch, strip_pixels):
    rng = np.random.default_rng(0)
    levels = [
        LevelRegions(rng.integers(0, 4, (8, 6)).astype(np.int32), np.array([-3.0, -2.0, -1.0])),
        LevelRegions(rng.integers(0, 3, (4, 3)).astype(np.int32), np.array([-2.5, 0.5])),
    ]
    whole = combine_levels(levels, [4, 8], (31, 23), background=2.0)
    monkeypatch.setattr(scratch, "_STRIP_PIXELS", strip_pixels)
    np.testing.assert_array_equal(combine_levels(levels, [4, 8], (31, 23), background=2.0), whole)
