import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, chi2

from napari_uflow.nfa.binomial import binomial_log10_nfa, binomial_log10_tail, block_log10_tail, candidate_threshold

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "binomial.npz")
PUBLISHED = [key for key in GOLDEN if key.startswith("log10p_")]


def candidates_of(z, probability_thr):
    return (np.square(z) >= candidate_threshold(probability_thr)).sum(axis=0).astype(np.float32)


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_values(key):
    window, probability, high = re.fullmatch(r"log10p_win([\d.]+)_p([\d.]+)_high(\d)", key).groups()
    for z, expected in zip(GOLDEN["z"], GOLDEN[key][:, 0], strict=True):
        got = block_log10_tail(
            candidates_of(z, float(probability)),
            len(z),
            window_size=float(window),
            probability_thr=float(probability),
            high_precision=high == "1",
            published=True,
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


# The tail


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 9, 25, 49])
@pytest.mark.parametrize("continuous", [False, True])
def test_whole_counts_are_the_binomial_law(n, q, continuous):
    x = np.arange(n + 1)
    expected = [math.log10(sum(binom.pmf(j, n, q) for j in range(k, n + 1))) for k in x]
    np.testing.assert_allclose(binomial_log10_tail(x, n, q, continuous=continuous), expected, rtol=1e-9, atol=1e-12)


def test_by_hand():
    # three throws of a coin: P(X >= 2) = 4 / 8; P(X >= 1.5) is that as well unless the tail is continuous
    assert binomial_log10_tail(2, 3, 0.5) == pytest.approx(math.log10(0.5))
    assert binomial_log10_tail(1.5, 3, 0.5) == pytest.approx(math.log10(0.5))
    assert math.log10(0.5) < binomial_log10_tail(1.5, 3, 0.5, continuous=True) < math.log10(7 / 8)


def test_far_below_the_smallest_number():
    assert binomial_log10_tail(2000, 2000, 0.1) == pytest.approx(-2000)
    got = float(binomial_log10_tail(1999, 2000, 0.1))
    assert got == pytest.approx(math.log10(2000 * 0.9 / 0.1 + 1) - 2000)


def test_the_continuous_tail_falls_strictly():
    values = binomial_log10_tail(np.linspace(0, 25, 501), 25, 0.1, continuous=True)
    assert (np.diff(values) < 0).all()
    assert values[0] == 0


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_the_threshold_is_a_quantile(p):
    assert chi2.cdf(candidate_threshold(p), 1) == pytest.approx(p)


@pytest.mark.parametrize("p", [0.0, 1.0, -1, math.nan])
def test_a_threshold_needs_a_probability(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        candidate_threshold(p)


# On the image


def nfa(z, strides, shape, **options):
    p = options.get("probability_thr", 0.9)
    return binomial_log10_nfa([candidates_of(x, p) for x in z], [len(x) for x in z], strides, shape, **options)


def test_noise_is_not_flagged_and_a_saturated_window_is():
    rng = np.random.default_rng(0)
    z = [rng.normal(size=(32, 32, 32)), rng.normal(size=(32, 16, 16))]
    quiet = nfa(z, (4, 8), (128, 128))
    assert quiet.min() > 0
    z[0][:, 10:20, 10:20] = 50
    z[1][:, 5:10, 5:10] = 50
    loud = nfa(z, (4, 8), (128, 128))
    assert np.isfinite(loud).all()
    # log10 of the number of tests, less 25 and 9 positions of full windows: the middle of the defect is strongest
    assert loud.min() == pytest.approx(math.log10(32**2 + 16**2) - 25 - 9, abs=1e-3)
    assert loud[60, 60] == loud.min()
    assert loud[100, 100] > 0


def test_published_saturation_stays_finite_on_the_image():
    z = [np.full((4, 8, 8), 50.0)]
    assert np.isfinite(nfa(z, (4,), (32, 32), published=True)).all()


def test_it_lies_where_the_heatmap_lies():
    """A symmetric defect has a symmetric map around its centre, at every stride."""
    z = [np.zeros((4, 16, 16))]
    z[0][:, 6:10, 6:10] = 9
    got = nfa(z, (8,), (128, 128))
    np.testing.assert_allclose(got, got[::-1, ::-1], atol=1e-4)
    np.testing.assert_allclose(got, got.T, atol=1e-4)


def test_window_and_probability_do_what_they_say():
    rng = np.random.default_rng(1)
    z = [rng.normal(size=(16, 24, 24)) * 1.3]
    base = nfa(z, (4,), (96, 96))
    assert not np.array_equal(base, nfa(z, (4,), (96, 96), window_size=9))
    assert not np.array_equal(base, nfa(z, (4,), (96, 96), probability_thr=0.5))
    assert not np.array_equal(base, nfa(z, (4,), (96, 96), high_precision=True))


def test_what_was_not_measured_is_no_candidate():
    counts = np.full((8, 8), np.nan)
    got = block_log10_tail(counts, 4, window_size=3, probability_thr=0.9)
    assert (got == 0).all()
