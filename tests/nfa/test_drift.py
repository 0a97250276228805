"""Drift: bets are fair, a change is noticed within a few images, and normal images hardly ever raise a warning."""

import math

import numpy as np
import pytest

from napari_uflow.nfa.drift import DriftTest, log_bet

HALF_SD_OF_POSITIONS = 5.0
"""In standard deviations of the medians, which vary a tenth as much as the positions of an image."""


def sequence(held_out, new, seed=0):
    """The test after new images; both are arrays (images, statistics)."""
    test = DriftTest(np.transpose(held_out))
    rng = np.random.default_rng((seed, 1))
    for values in new:
        test.add(values, rng)
    return test


@pytest.mark.parametrize("change", [-2.5, -1.0, 1.0, 2.5, 8.0])
@pytest.mark.parametrize(("n_before", "n_moved"), [(1, 1), (3, 1), (10, 4), (200, 1), (20, 50)])
def test_a_bet_is_fair(n_before, n_moved, change):
    p = (np.arange(200_000) + 0.5) / 200_000
    gains = np.exp(log_bet(p, np.array(n_before), np.array(n_moved), np.array(change)))
    assert np.mean(gains) == pytest.approx(1, abs=1e-3)


def test_a_bet_is_limited_by_the_images_that_may_have_moved():
    gain = np.exp(log_bet(1e-6, np.array(19), np.array(1), np.array(30.0)))
    assert gain == pytest.approx(20)
    assert np.exp(log_bet(0.5, np.array(19), np.array(1), np.array(30.0))) < 1e-6


@pytest.mark.parametrize("n_held_out", [10, 20, 50])
@pytest.mark.parametrize("sign", [1, -1])
def test_half_a_standard_deviation_is_noticed_within_ten_images(n_held_out, sign):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        held_out, new = rng.normal(size=(n_held_out, 2)), rng.normal(size=(10, 2))
        new[:, 0] += sign * HALF_SD_OF_POSITIONS
        test = sequence(held_out, new, seed)
        assert test.has_warned
        assert test.change == 0


def test_a_wider_spread_is_noticed():
    rng = np.random.default_rng(0)
    held_out, new = rng.normal(size=(20, 2)), rng.normal(size=(10, 2))
    new[:, 1] += HALF_SD_OF_POSITIONS
    assert sequence(held_out, new).has_warned


@pytest.mark.parametrize("n_good", [5, 40, 150])
def test_a_change_after_good_images_is_noticed_and_dated(n_good):
    rng = np.random.default_rng(n_good)
    new = rng.normal(size=(n_good + 10, 2))
    new[n_good:, 0] += HALF_SD_OF_POSITIONS
    test = sequence(rng.normal(size=(20, 2)), new)
    assert test.has_warned
    assert len(test.log10_evidence) > n_good
    assert abs(test.change - n_good) <= 1


def test_nothing_is_counted_after_a_warning():
    rng = np.random.default_rng(0)
    test = sequence(rng.normal(size=(20, 1)), 5 + rng.normal(size=(20, 1)))
    n = len(test.log10_evidence)
    assert n < 20
    assert test.log10_evidence[-1] >= 2 > test.log10_evidence[-2]
    test.add([0.0], rng)
    assert len(test.log10_evidence) == n


def test_equal_values_are_no_drift():
    test = sequence(np.zeros((10, 2)), np.zeros((100, 2)))
    assert not test.has_warned
    assert max(test.log10_evidence) < 2


def test_an_unknown_statistic_changes_nothing():
    rng = np.random.default_rng(0)
    held_out, new = rng.normal(size=(10, 1)), rng.normal(size=(30, 1))
    with_unknown = np.concatenate([new, np.full((60, 1), np.nan)])
    assert not sequence(held_out, with_unknown).has_warned
    test = sequence(held_out, with_unknown)
    assert test.log10_evidence[-1] == pytest.approx(sequence(held_out, new).log10_evidence[-1], abs=1e-9)


@pytest.mark.parametrize("n_held_out", [0, 2])
def test_too_few_held_out_specimens(n_held_out):
    test = DriftTest([np.zeros(n_held_out)])
    assert not test.can_test
    test.add([100.0], np.random.default_rng(0))
    assert not test.log10_evidence
    assert not test.has_warned


def test_the_evidence_is_a_martingale():
    """Its mean over sequences of exchangeable images is 1, also with few held-out ones and heavy tails."""
    last = []
    for seed in range(150):
        rng = np.random.default_rng((seed, 7))
        values = np.exp(rng.standard_t(2, size=(11, 2)))
        last.append(10 ** sequence(values[:5], values[5:], seed).log10_evidence[-1])
    error = np.std(last) / math.sqrt(len(last))
    assert np.mean(last) == pytest.approx(1, abs=4 * error)
    assert error < 0.2


@pytest.mark.slow
def test_false_warnings_obey_ville():
    n_warned = 0
    for seed in range(300):
        rng = np.random.default_rng((seed, 8))
        values = rng.standard_t(3, size=(70, 2)) * np.exp(rng.normal())
        n_warned += sequence(values[:10], values[10:], seed).has_warned
    assert n_warned <= 9  # 3 expected at most; more in 1 of 1000 runs
