import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from napari_uflow.nfa.growth import grow_regions
from napari_uflow.nfa.segment import LevelRegions, significant_regions

MAPS = npst.arrays(
    np.float64,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.one_of(st.sampled_from([np.nan, 0.0, 1.0, 2.0, 4.0]), st.floats(0, 9)),
)


def count(mask):
    return ndimage.label(mask, np.ones((3, 3)))[1]


@settings(max_examples=100)
@given(MAPS, st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 1.0, 3.0]))
def test_growth_keeps_the_number_of_false_alarms(evidence, fraction, normal_level):
    regions = significant_regions(np.nan_to_num(-evidence), 3.0)
    grown = grow_regions(regions, evidence, normal_level=normal_level, fraction=fraction)
    for threshold in regions.log10_nfa:
        significant = 1 + np.flatnonzero(regions.log10_nfa <= threshold)
        before, after = np.isin(regions.labels, significant), np.isin(grown.labels, significant)
        lost = np.unique(regions.labels[before & ~after])
        assert not np.isin(grown.labels, lost).any()  # halos, as a whole
        assert 1 not in lost
        assert count(after) <= count(before)
    is_core = regions.labels > 0
    assert (grown.labels[is_core] <= regions.labels[is_core]).all()
    added = grown.labels > 0
    added &= ~is_core
    assert (evidence[added] >= grown.levels[grown.labels[added] - 1]).all()
    assert (evidence[added] >= normal_level).all()


def test_a_region_grows_to_half_of_its_height():
    evidence = np.array([[0.0, 3.9, 4.0, 8.0, 6.0, 5.0, 1.0, 7.0]])
    core = LevelRegions(np.array([[0, 0, 0, 1, 0, 0, 0, 0]], dtype=np.int32), np.array([-2.0]))
    assert grow_regions(core, evidence, normal_level=1.0).labels.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    assert grow_regions(core, evidence, normal_level=5.5).labels.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]
    above = grow_regions(core, evidence, normal_level=1.0, normal_median=2.0)  # half of the height above the median
    assert above.labels.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert above.levels.tolist() == [5.0]


def test_the_more_significant_region_takes_what_both_reach():
    evidence = np.array([[9.0, 5.0, 8.0, 4.5, 4.2]])
    cores = LevelRegions(np.array([[1, 0, 2, 0, 0]], dtype=np.int32), np.array([-5.0, -2.0]))
    assert grow_regions(cores, evidence, normal_level=1.0).labels.tolist() == [[1, 1, 1, 1, 0]]
    stronger = LevelRegions(np.array([[2, 0, 1, 0, 0]], dtype=np.int32), np.array([-5.0, -2.0]))
    assert grow_regions(stronger, evidence, normal_level=1.0).labels.tolist() == [[1, 1, 1, 1, 1]]


def test_no_growth_into_or_from_unmeasured_positions():
    evidence = np.array([[np.nan, 5.0, np.nan, 5.0], [np.nan, np.nan, np.nan, np.nan]])
    cores = LevelRegions(np.array([[2, 1, 0, 0], [0, 0, 0, 0]], dtype=np.int32), np.array([-5.0, -2.0]))
    grown = grow_regions(cores, evidence, normal_level=1.0, fraction=0.0)
    assert grown.labels.tolist() == [[2, 1, 0, 0], [0, 0, 0, 0]]


def halo(second: tuple[int, int]) -> tuple[np.ndarray, LevelRegions]:
    """A round object of evidence 8, whose slope ends at 12 positions, and a second region."""
    rows, cols = np.indices((40, 40))
    evidence = np.clip(10 - np.hypot(rows - 20, cols - 16) / 1.5, 0.0, 8.0)
    labels = np.where(evidence >= 5, 1, 0).astype(np.int32)
    labels[second] = 2
    return evidence, LevelRegions(labels, np.array([-5.0, -2.0]))


def test_the_halo_of_an_object_is_no_region():
    evidence, regions = halo((20, 26))  # two positions beside the object
    assert grow_regions(regions, evidence, normal_level=2.0, fraction=0.9).labels.max() == 1


def test_an_object_beside_another_one_is_a_region():
    evidence, regions = halo((20, 26))
    evidence[20, 26] = 7.5  # a peak of its own
    assert grow_regions(regions, evidence, normal_level=2.0, fraction=0.9).labels.max() == 2
    evidence, regions = halo((20, 39))  # too far away
    assert grow_regions(regions, evidence, normal_level=0.0, fraction=0.5).labels.max() == 2


def test_a_halo_that_touches_a_third_region_stays():
    """Without it the two others might be two false alarms instead of one."""
    evidence, regions = halo((20, 24))
    labels = regions.labels.copy()
    labels[20, 25:32] = 3
    evidence[20, 31] = 7.0
    three = LevelRegions(labels, np.array([-5.0, -2.0, -1.0]))
    grown = grow_regions(three, evidence, normal_level=9.0, fraction=1.0)
    assert set(np.unique(grown.labels)) == {0, 1, 2, 3}


def test_nothing_to_grow():
    empty = LevelRegions(np.zeros((2, 3), dtype=np.int32), np.empty(0))
    assert not grow_regions(empty, np.ones((2, 3)), normal_level=0.5).labels.any()


def test_errors():
    regions = LevelRegions(np.ones((2, 3), dtype=np.int32), np.array([-1.0]))
    with pytest.raises(ValueError, match="one shape"):
        grow_regions(regions, np.ones((3, 3)), normal_level=1.0)
    with pytest.raises(ValueError, match="fraction"):
        grow_regions(regions, np.ones((2, 3)), normal_level=1.0, fraction=1.5)
