"""Tiles trained on and tiles held out: never of one specimen, never overlapping."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.training.tiles import Split, TrainingTile, choose_tiles, regions_of


def region(shape=(256, 256), specimen="a", mask=None) -> NormalRegion:
    return NormalRegion(Plane(data=np.zeros(shape, np.uint8), name="image"), mask, specimen)


def choose(regions, *, tile=64, seed=0, **options):
    """The tiles trained on and held out."""
    training = TrainingConfig.from_dict({"seed": seed, **options})
    split = choose_tiles(regions, tile, 16, training, np.random.default_rng(seed))
    return list(split.train), list(split.holdout)


def covered(tiles: list[TrainingTile], of: NormalRegion) -> np.ndarray:
    count = np.zeros([-(-n // 16) * 16 for n in of.plane.shape], int)
    for item in tiles:
        if item.region is of:
            count[item.window.slices()] += 1
    return count > 0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from("abcdef"), min_size=2, max_size=8).filter(lambda specimens: len(set(specimens)) > 1),
    st.floats(0.01, 0.5),
    st.integers(0, 100),
)
def test_no_specimen_is_on_both_sides(specimens, holdout, seed):
    regions = [region((128, 64), specimen) for specimen in specimens]
    train, held = choose(regions, holdout=holdout, seed=seed)
    held_specimens = {t.region.specimen for t in held}
    assert train
    assert held
    assert {t.region.specimen for t in train} == set(specimens) - held_specimens
    assert len(train) == 2 * sum(specimen not in held_specimens for specimen in specimens)  # and nothing is lost


@settings(deadline=None, max_examples=50)
@given(st.tuples(st.integers(64, 400), st.integers(64, 400)), st.floats(0.05, 0.5), st.integers(0, 100))
def test_of_one_specimen_places_are_held_out_that_overlap_with_no_other(shape, holdout, seed):
    """Sizes that are no multiple of the tile have overlapping tiles at their ends."""
    regions = [region(shape), region(shape)]
    train, held = choose(regions, holdout=holdout, seed=seed)
    assert train
    for one in regions:
        if held:
            assert not (covered(train, one) & covered(held, one)).any()
        else:
            assert covered(train, one).all()
    n_all = len(choose(regions, holdout=0.0)[0])
    if n_all >= 2 * 12 and holdout > 0.1:
        assert held
        assert len(held) <= math.ceil(n_all * holdout) + 2


def test_two_regions_of_one_image_do_not_overlap_across_the_split():
    plane = Plane(data=np.zeros((256, 256), np.uint8))
    masks = np.zeros((2, 256, 256), bool)
    masks[0, :, :192] = masks[1, :, 64:] = True
    regions = [NormalRegion(plane, mask) for mask in masks]
    train, held = choose(regions)
    assert train
    assert held
    for one in regions:
        for other in regions:
            assert not (covered(train, one) & covered(held, other)).any()


def test_an_image_of_one_tile_is_trained_on_and_nothing_is_held_out():
    train, held = choose([region((64, 64))])
    assert len(train) == 1
    assert held == []


def test_without_a_holdout_everything_is_trained_on():
    regions = [region(specimen="a"), region(specimen="b")]
    train, held = choose(regions, holdout=0.0)
    assert len(train) == 32
    assert held == []


def test_nothing_normal_is_an_error_that_says_what_to_do():
    mask = np.zeros((256, 256), bool)
    mask[10:20, 10:20] = True
    for nothing in (region(mask=mask), region(mask=np.zeros((256, 256), bool))):
        with pytest.raises(ImageError, match="no tile of 64 x 64 pixels has at least 50% normal pixels"):
            choose([nothing])
    assert choose([region(mask=mask)], min_normal=0.01)[0]


def test_specimens_that_have_no_normal_tile_do_not_starve_the_others():
    """If all specimens left for training are empty, those with tiles are divided by place."""
    empty = np.zeros((256, 256), bool)
    for seed in range(6):
        regions = [region(specimen="a"), region(specimen="b", mask=empty)]
        train, held = choose(regions, seed=seed)
        assert train
        assert held
        assert not (covered(train, regions[0]) & covered(held, regions[0])).any()


def test_only_normal_tiles_are_used():
    mask = np.zeros((256, 256), bool)
    mask[:, :128] = True
    train, held = choose([region(mask=mask)])
    assert all(t.window.stop_col <= 128 for t in train + held)
    assert len(train) + len(held) == 8


@pytest.mark.parametrize("max_tiles", [1, 3, 10])
def test_no_more_tiles_than_asked_for(max_tiles):
    regions = [region(specimen=specimen) for specimen in "abcde"]
    train, held = choose(regions, max_tiles=max_tiles)
    assert len(train) == max_tiles
    assert len(held) == max(1, math.ceil(max_tiles * 0.2))
    assert len({(t.region.specimen, t.window) for t in train}) == max_tiles
    other, _ = choose(regions, max_tiles=max_tiles, seed=1)
    assert [(t.region.specimen, t.window) for t in train] != [(t.region.specimen, t.window) for t in other]


def test_the_same_seed_gives_the_same_tiles():
    regions = [region(specimen=specimen) for specimen in "abcde"]
    one, other = choose(regions, max_tiles=7, seed=3), choose(regions, max_tiles=7, seed=3)
    assert one == other


def test_small_images_give_one_tile_of_their_size():
    train, _ = choose([region((40, 200))], holdout=0.0)
    assert {t.window.shape for t in train} == {(48, 64)}


def test_regions_of_names_each_once_and_in_order():
    one, other = region(specimen="a"), region(specimen="b")
    train, _ = choose([one, other, one], holdout=0.0)
    assert [id(r) for r in regions_of(train)] == [id(one), id(other)]


def test_a_wide_image_is_split_along_its_width_and_a_high_one_along_its_height():
    for shape, axis in (((128, 512), "col"), ((512, 128), "row")):
        train, held = choose([region(shape)], holdout=0.25)
        assert len(held) == 4
        assert {getattr(tile.window, axis) for tile in held} == {384, 448}
        assert max(getattr(tile.window, axis) for tile in train) < 384


def marked(plane, box, specimen="one"):
    mask = np.zeros(plane.shape, bool)
    mask[box] = True
    return NormalRegion(plane, mask, specimen, is_marked_normal=True)


@pytest.mark.parametrize("n_copies", [1, 3, 20])
@pytest.mark.parametrize("corner", [(96, 96), (300, 416), (440, 440)])
def test_regions_marked_normal_are_trained_on_and_held_out_nowhere(n_copies, corner):
    """In a single image whose last tiles are held out: at its beginning, in its middle and among those."""
    plane = Plane(data=np.zeros((512, 512), np.uint8), name="one")
    box = (slice(corner[0], corner[0] + 64), slice(corner[1], corner[1] + 64))
    region = marked(plane, box)
    before = choose([NormalRegion(plane)])
    train, held = choose([NormalRegion(plane), *[region] * n_copies])
    mine = [tile for tile in train if tile.region is region]
    assert len(mine) >= n_copies
    assert all(tile.region is not region for tile in held)
    assert {tile.window for tile in held} <= {tile.window for tile in before[1]}
    for tile in held:
        assert not (tile.region.normal() & region.normal()).any()


def test_regions_marked_normal_in_a_held_out_specimen_are_held_out_and_stay_where_false_alarms_are_counted():
    planes = [Plane(data=np.zeros((256, 256), np.uint8), name=str(i)) for i in range(5)]
    regions = [NormalRegion(plane) for plane in planes]
    (specimen,) = {tile.region.specimen for tile in choose(regions)[1]}
    plane = planes[int(specimen)]
    region = marked(plane, (slice(64, 128), slice(64, 128)), specimen)
    train, held = choose([*regions, region])
    assert not any(tile.region is region for tile in train)
    assert {tile.region.specimen for tile in held} == {specimen}
    assert any(tile.region is region for tile in held)
    split = Split(tuple(train), tuple(held))
    for tiles in (split.for_calibration, split.of_images):
        counted = [tile.region for tile in tiles if tile.region.plane is plane]
        assert counted
        assert all(of is not region and of.normal()[64:128, 64:128].all() for of in counted)


@pytest.mark.parametrize("max_tiles", [1, 4, 10, 100])
def test_regions_marked_normal_are_half_of_the_tiles_at_most(max_tiles):
    plane = Plane(data=np.zeros((256, 256), np.uint8), name="one")
    others = [region((256, 256), str(i)) for i in range(2)]
    boxes = [(slice(16 * i, 16 * i + 64), slice(0, 64)) for i in range(12)]
    train, _ = choose([*others, *(marked(plane, box) for box in boxes)], max_tiles=max_tiles, holdout=0.0)
    n_marked = sum(tile.region.is_marked_normal for tile in train)
    assert n_marked == min(12, max(1, max_tiles // 2))
    assert len(train) == min(2 * 16 + n_marked, max_tiles)
    alone, _ = choose([marked(plane, box) for box in boxes], max_tiles=max_tiles)
    assert len(alone) == 12


def test_regions_marked_normal_alone_can_be_trained_on():
    plane = Plane(data=np.zeros((256, 256), np.uint8))
    train, held = choose([marked(plane, (slice(0, 64), slice(0, 64)))])
    assert len(train) == 1
    assert held == []


def test_whole_specimens_are_held_out_if_each_condition_has_one():
    planes = [Plane(data=np.zeros((128, 64), np.uint8), name=f"{stain} image") for stain in "abcde"]
    train, held = choose([NormalRegion(plane) for plane in planes], condition_pattern="^(.) ")
    assert {t.region.specimen for t in train}.isdisjoint(t.region.specimen for t in held)
    assert held


def test_something_is_trained_on_if_specimens_have_several_conditions():
    """By chance, each of them is drawn for another condition."""
    for seed in range(20):
        pairs = [("1", "ac"), ("2", "abc"), ("3", "bc")]
        regions = [
            NormalRegion(Plane(data=np.zeros((128, 64), np.uint8), name=f"{of} {one}"), specimen=one)
            for one, several in pairs
            for of in several
        ]
        train, held = choose(regions, condition_pattern="^(.) ", seed=seed)
        assert {t.region.specimen for t in train}.isdisjoint(t.region.specimen for t in held)
        assert train
        assert held


def test_specimens_without_a_normal_tile_are_not_those_held_out():
    """Otherwise the places of the others would be divided, and nothing could be guaranteed."""
    empty = np.zeros((128, 64), bool)
    empty[0, 0] = True
    for few in itertools.combinations("abcd", 2):
        regions = [region((128, 64), one, empty if one in few else None) for one in "abcd"]
        train, held = choose(regions)
        assert {t.region.specimen for t in train}.isdisjoint(t.region.specimen for t in held)
        assert held
