import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from napari_uflow.nfa.significance import chernoff_log10_tail, chi2_log10_tail

LARGEST = np.finfo(np.float32).max


def log10_tail_of_even_chi2(energy: float, n_channels: int) -> float:
    """For even C the tail is a finite sum, e**-x * sum_{k < C/2} x**k / k!, here with 200 digits."""
    with localcontext() as context:
        context.prec = 200
        context.Emin, context.Emax = -(10**17), 10**17
        x = Decimal(energy) * n_channels / 2
        term = total = Decimal(1)
        for k in range(1, n_channels // 2):
            term *= x / k
            total += term
        return float(total.log10() - x / Decimal(10).ln())


def log10_erfc_of_sqrt(x: float) -> float:
    """For one channel the tail is erfc(sqrt(x)), x = energy / 2; its asymptotic series, far out."""
    with localcontext() as context:
        context.prec = 60
        context.Emin, context.Emax = -(10**17), 10**17
        exact = Decimal(x)
        term = total = Decimal(1)
        for k in range(1, 60):
            term *= -(2 * k - 1) / (2 * exact)
            total += term
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
        return float((total / (pi * exact).sqrt()).log10() - exact / Decimal(10).ln())


@pytest.mark.parametrize("n_channels", [2, 4, 16, 84, 128, 816, 4000])
def test_tail_against_the_finite_sum(n_channels):
    energies = np.concatenate([[0.02, 0.3, 0.9, 0.999, 1.0, 1.001], np.geomspace(1.05, 30, 40), [1e2, 1e3, 1e5, 1e12]])
    got = chi2_log10_tail(energies, n_channels)
    expected = np.array([log10_tail_of_even_chi2(energy, n_channels) for energy in energies])
    resolved = expected < -1e-290  # closer to 0 the probability of the contrary is not a normal float64 number
    np.testing.assert_allclose(got[resolved], expected[resolved], rtol=1e-10)
    np.testing.assert_allclose(got[~resolved], 0.0, atol=1e-290)


def test_tail_of_one_channel():
    energies = np.array([0.01, 0.5, 1.0, 2.0, 30.0, 300.0])
    erfc = [math.log10(math.erfc(math.sqrt(energy / 2))) for energy in energies]
    np.testing.assert_allclose(chi2_log10_tail(energies, 1), erfc, rtol=1e-12)
    far = np.array([200.0, 1000.0, 1250.0, 1280.0, 1300.0, 2000.0, 1e5])
    np.testing.assert_allclose(chi2_log10_tail(far, 1), [log10_erfc_of_sqrt(e / 2) for e in far], rtol=1e-12)


@pytest.mark.parametrize("n_channels", [1, 3, 16, 84, 815, 816, 100_000])
def test_tail_never_rises(n_channels):
    coarse = np.concatenate([np.linspace(0, 8, 4001), np.geomspace(8, LARGEST, 2000)]).astype(np.float32)
    assert np.all(np.diff(chi2_log10_tail(coarse, n_channels)) <= 0)
    # Where the formula changes: at the mean, and where the tail falls below 1e-280.
    far = coarse[np.searchsorted(-chi2_log10_tail(coarse, n_channels), 280.0)]
    for centre in (np.float32(1), far):
        steps = [centre]
        for _ in range(2000):
            steps.append(np.nextafter(steps[-1], np.float32(LARGEST)))
        below = [centre]
        for _ in range(2000):
            below.append(np.nextafter(below[-1], np.float32(0)))
        assert np.all(np.diff(chi2_log10_tail(np.array(below[::-1] + steps[1:]), n_channels)) <= 0)


@pytest.mark.parametrize("n_channels", [1, 16, 816])
@pytest.mark.parametrize("tail", [chi2_log10_tail, chernoff_log10_tail])
def test_special_energies(tail, n_channels):
    values = tail(np.array([0.0, -1.0, np.nan, -np.inf, LARGEST, np.inf, 1e300], dtype=np.float64), n_channels)
    assert values.dtype == np.float64
    assert np.all(np.isfinite(values))
    np.testing.assert_array_equal(values[:4], 0.0)
    assert not np.any(np.signbit(values[:4]))
    assert values[4] == values[5] == values[6] < -1e37


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (2, 3, 4)])
def test_shape_is_kept_and_input_untouched(shape):
    energy = np.full(shape, np.nan, dtype=np.float32)
    for tail in (chi2_log10_tail, chernoff_log10_tail):
        assert tail(energy, 4).shape == shape
    assert np.all(np.isnan(energy))


def test_chernoff_bounds_the_tail_on_its_side_only():
    energy = np.linspace(0, 20, 400)
    bound = chernoff_log10_tail(energy, 32)
    assert np.all(bound >= chi2_log10_tail(energy, 32))
    assert np.all(bound[energy <= 1] == 0)
    published = chernoff_log10_tail(energy, 32, one_sided=False)
    np.testing.assert_array_equal(published[energy > 1], bound[energy > 1])
    assert np.all(published[energy < 1] < 0)
    assert np.all(np.isfinite(published))
    assert chernoff_log10_tail(math.e, 2) == pytest.approx(-(math.e - 2) / math.log(10))
    assert chernoff_log10_tail(np.nan, 2, one_sided=False) == 0


@pytest.mark.parametrize("tail", [chi2_log10_tail, chernoff_log10_tail])
def test_no_channels_are_refused(tail):
    with pytest.raises(ValueError, match="n_channels must be at least 1, got 0"):
        tail(np.ones(3), 0)


def test_frequencies_of_normal_latents():
    z = np.random.default_rng(3).standard_normal((8, 20_000))
    log10_p = chi2_log10_tail((z**2).mean(0), 8)
    for p in (0.5, 0.1, 0.01):
        n = np.count_nonzero(log10_p <= math.log10(p))
        assert abs(n - 20_000 * p) < 4 * math.sqrt(20_000 * p * (1 - p))
