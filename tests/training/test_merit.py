"""The figure of merit of evidence on planted defects, on evidence that is known."""

import math

import numpy as np
import pytest

from napari_uflow.training.merit import LARGEST_RATE, Difference, Maxima

TILES = np.arange(10)


def maxima(of_defects, of_tiles, tiles=None) -> Maxima:
    of_defects = np.asarray(of_defects, dtype=float)
    tiles = np.arange(len(of_defects)) % len(of_tiles) if tiles is None else np.asarray(tiles)
    return Maxima(of_defects, np.asarray(of_tiles, dtype=float), tiles)


def drawn(shift, seed=0, n=80, n_tiles=20) -> Maxima:
    rng = np.random.default_rng(seed)
    return maxima(rng.normal(size=n) + shift, rng.normal(size=n_tiles))


def test_the_merit_of_defects_above_or_below_all_tiles():
    assert maxima([11, 12], TILES).merit == 1
    assert maxima([-1, -2], TILES).merit == 0
    assert maxima([5.0] * 3, [5.0] * 10).merit == 0.5


def test_only_thresholds_of_few_false_alarms_count():
    # of tiles 0 to 9, those from 9 down to 4 count wholly and 3 by the rest of 6.32 tiles
    assert abs(10 * LARGEST_RATE - 6.32) < 0.01
    assert maxima([2.5], TILES).merit == 0
    assert maxima([3.5], TILES).merit == pytest.approx(0.32 / 6.32, abs=1e-3)
    assert maxima([8.5], TILES).merit == pytest.approx(5.32 / 6.32, abs=1e-3)


def test_the_merit_depends_on_ranks_alone():
    one = drawn(0.5)
    other = Maxima(np.exp(3 * one.of_defects), np.exp(3 * one.of_tiles), one.tiles)
    assert one.merit == other.merit
    assert one.versus(other) == Difference(0.0, 0.0)


def test_the_merit_without_a_tile_is_that_of_the_rest():
    one = drawn(0.3, n=30, n_tiles=7)
    for tile in range(7):
        kept = one.tiles != tile
        rest = maxima(one.of_defects[kept], np.delete(one.of_tiles, tile), one.tiles[kept] % 6)
        assert one._without_one[tile] == pytest.approx(rest.merit)


def test_pairs_make_a_small_error():
    rng = np.random.default_rng(1)
    one = drawn(0.5)
    nudged = Maxima(one.of_defects + 0.3 + rng.normal(0, 0.05, len(one.of_defects)), one.of_tiles, one.tiles)
    unpaired = drawn(0.8, seed=5)
    assert nudged.versus(one).is_clear
    assert one.versus(nudged).mean == -nudged.versus(one).mean
    assert nudged.versus(one).error < 0.5 * unpaired.versus(one).error


def test_the_error_is_that_of_repeated_experiments():
    estimated, observed = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        defects, tiles = rng.normal(0.5, 1, 80), rng.normal(0, 1, 20)
        one = maxima(defects, tiles)
        other = maxima(defects + rng.normal(0, 0.7, 80), tiles + rng.normal(0, 0.7, 20))
        difference = other.versus(one)
        observed.append(difference.mean)
        estimated.append(difference.error)
    assert np.mean(estimated) == pytest.approx(np.std(observed), rel=0.35)


def test_too_few_tiles_for_an_error():
    one, other = maxima([1, 2], [0, 1]), maxima([3, 4], [0, 1])
    difference = other.versus(one)
    assert math.isinf(difference.error)
    assert not difference.is_clear
    assert one.versus(other).is_within_error


def test_defects_found_at_one_false_alarm_in_ten_tiles():
    assert maxima([8.5, 9.5, 10.0], TILES).n_found == 2
