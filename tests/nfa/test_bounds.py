"""Bounds beside the mean: exact on hand-made specimens, kept by random ones of which the truth is known."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from napari_uflow.nfa.bounds import any_part, most_false, specimens_needed_for_all
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen


def offset_of(specimens):
    """One specimen for each list of images, each a list of values."""
    return ConformalOffset(tuple(HeldOutSpecimen(str(i), tuple(map(tuple, im))) for i, im in enumerate(specimens)))


def minima(values):
    """One image per specimen, with one region."""
    return offset_of([[v]] for v in values)


# The part of images with a false alarm


@pytest.mark.parametrize(("n", "epsilon", "r"), [(9, 0.1, 1), (20, 0.1, 2), (20, 0.2, 4), (99, 0.01, 1), (90, 0.1, 9)])
def test_the_part_of_images_is_that_of_an_order_statistic(n, epsilon, r):
    offset = minima([(float(v),) for v in range(n)])
    assert any_part(offset, epsilon) == pytest.approx(beta.ppf(0.9, r, n + 1 - r), abs=1e-9)


def test_without_enough_specimens_nothing_is_known():
    offset = minima([(float(v),) for v in range(9)])
    assert any_part(offset, 0.09) == 1
    assert any_part(offset, 0.1, n_areas=2) == 1
    assert any_part(offset, 0.3, n_areas=2) == pytest.approx(2 * any_part(offset, 0.15))
    assert any_part(minima([(0.0,), (1.0,)]), 1.0) == 1
    assert any_part(ConformalOffset(), 1.0) == 1


def realised(draw, truth, n, epsilon, n_sets=1500):
    """Return in which part of draws of the held-out specimens the true part of images exceeds its bound."""
    rng = np.random.default_rng(0)
    n_above = 0
    for _ in range(n_sets):
        offset = offset_of(draw(rng) for _ in range(n))
        n_above += truth(offset.threshold(epsilon)) > any_part(offset, epsilon)
    return n_above / n_sets


def test_the_confidence_is_exact_with_one_image_per_specimen():
    above = realised(lambda rng: [[rng.uniform(-3, 3)]], lambda t: (t + 3) / 6, 20, 0.1)
    assert above == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / 1500))


def test_the_confidence_is_kept_with_several_images_per_specimen():
    def draw(rng):
        shift = rng.uniform(-2, 1)  # images of a specimen are alike
        return [[shift + rng.uniform(-1, 1)] for _ in range(3)]

    values = np.sort(np.random.default_rng(1).uniform(-2, 1, 20_000) + np.random.default_rng(2).uniform(-1, 1, 20_000))
    assert realised(draw, lambda t: np.searchsorted(values, t) / len(values), 20, 0.2, 300) <= 0.1
    # a fraction is never better known than a whole number
    assert any_part(minima([(float(v),) for v in range(20)]), 0.2) < any_part(
        offset_of([[float(v)]] * 3 for v in range(20)), 0.2
    )


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_the_confidence_is_kept_for_the_mean_number(epsilon):
    above = realised(lambda rng: [np.sort(rng.uniform(-3, 3, rng.poisson(2)))], _any_of_two, 20, epsilon, 300)
    assert above <= 0.1 + 2 * math.sqrt(0.09 / 300)


def test_clustered_false_alarms_are_known_to_be_in_few_images():
    """One image of twenty has all of them: at 1 accepted the part is 1 / 20 and the deviation of its estimate."""
    offset = offset_of([[[-2.0, -1.9, -1.8, -1.7]]] + [[[]]] * 19)
    assert any_part(offset, 1.0) == pytest.approx(0.05 + math.sqrt(math.log(10) / 40))


def _any_of_two(threshold):
    return 1 - math.exp(-2 * (threshold + 3) / 6)


# The number of false regions at all thresholds


def test_the_number_of_false_regions_of_nine_specimens():
    """Scores k / (.3 + M ** .75): the second region of 'b', at a mean of 3 / 10, has the highest but one."""
    nine = [[[]] for _ in range(7)] + [[[-2.0, 0.0]], [[-1.0]]]
    offset = offset_of(nine)
    scores = [2 / (0.3 + 0.3**0.75), 1 / (0.3 + 0.1**0.75), 1 / (0.3 + 0.2**0.75)]
    quantile = max(scores)  # nine of ten: the largest
    t = offset.threshold(1.005)
    mean = sum(np.searchsorted(v, t, side="right") for (v,) in nine) / 10
    expected = max(k for k in range(100) if k <= quantile * (0.3 + (mean + k / 10) ** 0.75))
    assert most_false(offset, 1.0) == expected > 0
    assert most_false(offset_of(nine[:8]), 1.0) is None
    assert most_false(offset_of([[[]]] * 9), 10.0) == 0


def test_every_area_of_a_large_image_takes_its_share_of_the_doubt():
    assert (specimens_needed_for_all(), specimens_needed_for_all(1.5), specimens_needed_for_all(14)) == (9, 19, 139)
    rng = np.random.default_rng(0)
    offset = offset_of([np.sort(rng.normal(0, 1, rng.poisson(2)))] for _ in range(19))
    assert most_false(offset, 1.0, n_areas=2.1) is None
    two = most_false(offset, 1.0, n_areas=2)
    assert two % 2 == 0
    assert two >= 2 * most_false(offset, 0.5)


def draw_image(rng):
    """Images that differ: some have many regions, and regions at random thresholds."""
    return np.sort(rng.uniform(-4, 3, rng.poisson(rng.exponential(3))))


@pytest.mark.parametrize(("n", "per_specimen"), [(9, 1), (20, 1), (20, 3)])
def test_nine_of_ten_images_keep_the_bound_at_all_thresholds_at_once(n, per_specimen):
    rng = np.random.default_rng(n + per_specimen)
    epsilons = np.geomspace(0.01, 10, 40)
    kept, n_new, n_sets = 0, 20, 60
    for _ in range(n_sets):
        offset = offset_of([draw_image(rng) for _ in range(per_specimen)] for _ in range(n))
        bounds = np.array([most_false(offset, epsilon) for epsilon in epsilons])
        assert (np.diff(bounds) >= 0).all()
        thresholds = [offset.threshold(epsilon) for epsilon in epsilons]
        for image in (draw_image(rng) for _ in range(n_new)):
            kept += bool((np.searchsorted(image, thresholds, side="right") <= bounds).all())
    # the draws of held-out specimens spread with a standard deviation of sqrt(.09 / (n + 2))
    assert kept / (n_sets * n_new) >= 0.9 - 2 * math.sqrt(0.09 / (n + 2) / n_sets)
    assert bounds[-1] < 60


def test_a_larger_image_keeps_the_bound_at_all_thresholds_at_once():
    rng = np.random.default_rng(5)
    epsilons = np.geomspace(0.05, 10, 20)
    kept = []
    for _ in range(30):
        offset = offset_of([draw_image(rng)] for _ in range(40))
        bounds = [most_false(offset, epsilon, n_areas=3) for epsilon in epsilons]
        thresholds = [offset.threshold(epsilon / 3) for epsilon in epsilons]
        for _ in range(20):
            spread = rng.exponential(3)  # all parts of an image are alike
            image = np.sort(np.concatenate([rng.uniform(-4, 3, rng.poisson(spread)) for _ in range(3)]))
            kept.append(bool((np.searchsorted(image, thresholds, side="right") <= bounds).all()))
    assert np.mean(kept) >= 0.9
