"""The tail of held-out energies: a probability that means what it says on fresh data of the same kind."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_uflow.nfa.calibration import EnergyTail


def chi_squared(rng, shape=(40, 50), n_channels=20):
    """Energies of a perfect model."""
    return rng.chisquare(n_channels, shape) / n_channels


def heavy(rng, shape=(40, 50)):
    """Energies whose logarithm has an exponential tail, as those of real held-out latents have."""
    return chi_squared(rng, shape) * np.exp(0.5 * rng.exponential(size=shape))


def maps(kind=chi_squared, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [kind(rng) for _ in range(n)]


KINDS = [chi_squared, heavy]


@pytest.mark.parametrize("kind", KINDS)
def test_higher_energies_are_less_probable(kind):
    tail = EnergyTail.fit(maps(kind))
    energies = np.concatenate([[0.0], np.geomspace(1e-6, 1e30, 2000)])
    log10_p = tail.log10_tail(energies)
    assert log10_p[0] == 0
    assert (log10_p <= 0).all()
    assert (np.diff(log10_p) <= 0).all()
    assert np.isfinite(log10_p).all()
    assert log10_p[-1] < -3
    # no jump where the empirical distribution ends
    end = tail.energies[-1]
    below, above = tail.log10_tail(np.array([end * (1 - 1e-9), end * (1 + 1e-9)]))
    assert below == pytest.approx(above, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_median_has_one_half(kind):
    values = maps(kind)
    (log10_p,) = EnergyTail.fit(values).log10_tail(np.array([np.median(values)]))
    assert 10**log10_p == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_p_values_of_fresh_data_are_uniform(kind):
    tail = EnergyTail.fit(maps(kind, n=10))
    log10_p = np.concatenate([tail.log10_tail(m).ravel() for m in maps(kind, n=50, seed=1)])
    for p in (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        assert (log10_p <= math.log10(p)).mean() == pytest.approx(p, rel=0.25)
    for p in (1e-3, 1e-4):  # far out it may be too careful, but hardly the opposite
        assert (log10_p <= math.log10(p)).mean() < 2 * p


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_the_unit_of_energy_does_not_matter(unit):
    values = maps(heavy)
    energies = np.geomspace(0.3, 300, 50)
    one, other = EnergyTail.fit(values), EnergyTail.fit([m * unit for m in values])
    np.testing.assert_allclose(other.log10_tail(energies * unit), one.log10_tail(energies), rtol=1e-3, atol=1e-3)


# Dependence between neighbours


def test_white_noise_counts_position_by_position():
    assert EnergyTail.fit(maps()).correlation_area == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("sigma", [0.8, 1.2, 1.8])
def test_smoothed_noise_counts_by_its_area(sigma):
    """Noise smoothed by a Gaussian has the autocorrelation exp(-r^2 / (4 sigma^2)), whose integral is 4 pi sigma^2."""
    rng = np.random.default_rng(0)
    values = [np.exp(ndimage.gaussian_filter(rng.normal(size=(96, 96)), sigma, mode="wrap")) for _ in range(6)]
    area = EnergyTail.fit(values).correlation_area
    assert area == pytest.approx(4 * math.pi * sigma**2, rel=0.25)


def test_what_a_whole_picture_shares_is_no_correlation():
    rng = np.random.default_rng(0)
    values = [chi_squared(rng) * gain for gain in (0.7, 1.0, 1.4, 2.0)]
    assert EnergyTail.fit(values).correlation_area < 1.3


# What there is to fit


def test_missing_positions_are_left_out():
    values = maps()
    holes = [m.copy() for m in values]
    for m in holes:
        m[::3] = np.nan
    tail = EnergyTail.fit(holes)
    assert tail.n_values == sum(int(np.isfinite(m).sum()) for m in holes)
    energies = np.linspace(0.2, 3, 30)
    np.testing.assert_allclose(
        tail.log10_tail(energies), EnergyTail.fit(values).log10_tail(energies), rtol=0.3, atol=0.05
    )
    measured = tail.log10_tail(holes[0])
    assert (measured[::3] == 0).all()
    assert np.isfinite(measured).all()
    assert measured.shape == holes[0].shape


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="at least 50 held-out positions are needed, not 49"):
        EnergyTail.fit([np.ones((7, 7))])
    assert EnergyTail.fit([np.random.default_rng(0).random((1, 25)), np.random.default_rng(1).random((25, 1))])


@pytest.mark.parametrize("value", [0.0, 1.0, 3e38])
def test_constant_energies(value):
    tail = EnergyTail.fit([np.full((10, 10), value)])
    log10_p = tail.log10_tail(np.array([0.0, value, value * 1.1, 3.4e38]))
    assert np.isfinite(log10_p).all()
    assert (log10_p <= 0).all()
    assert tail.correlation_area >= 1


def test_equal_energies_are_one_grey_level():
    rng = np.random.default_rng(0)
    values = [np.round(chi_squared(rng), 1) for _ in range(4)]
    tail = EnergyTail.fit(values)
    energies = np.array(tail.energies)
    assert (np.diff(energies) > 0).all()
    assert (np.diff(tail.log10_p) < 0).all()
    # the probability of at least this much, not of more than this much
    everything = np.concatenate([m.ravel() for m in values])
    for energy in (0.8, 1.0, 1.2):
        (log10_p,) = tail.log10_tail(np.array([energy]))
        assert 10**log10_p >= 0.9 * (everything >= energy).mean()


def test_dictionaries_bring_back_the_same_tail():
    tail = EnergyTail.fit(maps(heavy))
    assert EnergyTail.from_dict(json.loads(json.dumps(tail.to_dict(), allow_nan=False))) == tail
