"""Tails of held-out maps: a probability that means what it says on fresh data of the same kind."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import ndtri

from napari_uflow.nfa.calibration import MapCalibration, Tail, correlation_area, profile_of


def chi_squared(rng, shape=(40, 50), n_channels=20):
    """Energies of a perfect model."""
    return rng.chisquare(n_channels, shape) / n_channels


def heavy(rng, shape=(40, 50)):
    """Values with an exponential tail, as the logarithms of real held-out energies have."""
    return np.log(chi_squared(rng, shape)) + 0.5 * rng.exponential(size=shape)


def flat(values):
    return np.concatenate([m.ravel() for m in values])


def maps(kind=chi_squared, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [kind(rng) for _ in range(n)]


KINDS = [chi_squared, heavy]


@pytest.mark.parametrize("kind", KINDS)
def test_higher_energies_are_less_probable(kind):
    tail = Tail.fit(flat(maps(kind)))
    energies = np.concatenate([[-1e6, -10.0], np.linspace(-3, 3, 500), np.geomspace(3.1, 1e30, 500)])
    log10_p = tail.log10_tail(energies)
    assert log10_p[0] == 0
    assert (log10_p <= 0).all()
    assert (np.diff(log10_p) <= 0).all()
    assert np.isfinite(log10_p).all()
    assert log10_p[-1] < -3
    # no jump where the empirical distribution ends
    end = tail.values[-1]
    below, above = tail.log10_tail(np.array([end - 1e-9, end + 1e-9]))
    assert below == pytest.approx(above, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_median_has_one_half(kind):
    values = maps(kind)
    (log10_p,) = Tail.fit(flat(values)).log10_tail(np.array([np.median(values)]))
    assert 10**log10_p == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_p_values_of_fresh_data_are_uniform(kind):
    tail = Tail.fit(flat(maps(kind, n=10)))
    log10_p = np.concatenate([tail.log10_tail(m).ravel() for m in maps(kind, n=50, seed=1)])
    for p in (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        assert (log10_p <= math.log10(p)).mean() == pytest.approx(p, rel=0.25)
    for p in (1e-3, 1e-4):  # far out it may be too careful, but hardly the opposite
        assert (log10_p <= math.log10(p)).mean() < 2 * p


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_the_unit_does_not_matter(unit, offset):
    values = flat(maps(heavy))
    at = np.linspace(-2, 10, 50)
    one, other = Tail.fit(values), Tail.fit(values * unit + offset)
    np.testing.assert_allclose(other.log10_tail(at * unit + offset), one.log10_tail(at), rtol=1e-3, atol=1e-3)


# Dependence between neighbours


def test_white_noise_counts_position_by_position():
    assert correlation_area(maps()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("sigma", [0.8, 1.2, 1.8])
def test_smoothed_noise_counts_by_its_area(sigma):
    """Noise smoothed by a Gaussian has the autocorrelation exp(-r^2 / (4 sigma^2)), whose integral is 4 pi sigma^2."""
    rng = np.random.default_rng(0)
    values = [np.exp(ndimage.gaussian_filter(rng.normal(size=(96, 96)), sigma, mode="wrap")) for _ in range(6)]
    assert correlation_area(values) == pytest.approx(4 * math.pi * sigma**2, rel=0.25)


@pytest.mark.parametrize("shape", [(5, 7), (12, 13), (3, 40)])
def test_correlations_are_those_of_the_definition(shape):
    """Sums over pairs, one by one, on small maps with a hole."""
    rng = np.random.default_rng(0)
    values = [ndimage.gaussian_filter(rng.normal(size=shape), 1.0) for _ in range(3)]
    values[1][1, 2] = np.nan
    known = np.sort(flat([m[np.isfinite(m)] for m in values]))
    products, counts = {}, {}
    for m in values:
        score = ndtri((np.searchsorted(known, m) + 0.5) / (known.size + 1))
        score[np.isnan(m)] = np.nan
        score -= np.nanmean(score)
        for (i, a), (j, b) in itertools.product(np.ndenumerate(score), repeat=2):
            lag = (i[0] - j[0], i[1] - j[1])
            if max(map(abs, lag)) <= 12 and np.isfinite(a * b):
                products[lag] = products.get(lag, 0.0) + a * b
                counts[lag] = counts.get(lag, 0) + 1
    correlations = {lag: products[lag] / counts[lag] / (products[0, 0] / counts[0, 0]) for lag in products}
    expected = sum(c for c in correlations.values() if c > 0.05)
    assert correlation_area(values) == pytest.approx(expected, rel=1e-6)


def test_a_property_of_the_whole_image_is_neither_correlation_nor_anomaly():
    rng = np.random.default_rng(0)
    values = [heavy(rng) + offset for offset in (-0.7, 0.0, 0.4, 2.0)]
    fitted = MapCalibration.fit(values)
    assert fitted.correlation_area < 1.3
    one, other = fitted.log10_tail(values[0]), fitted.log10_tail(values[0] + 5)
    np.testing.assert_allclose(one, other, atol=1e-9)


# Whole images


def test_an_image_as_a_whole_may_be_out_of_distribution():
    rng = np.random.default_rng(0)
    fitted = MapCalibration.fit([heavy(rng) + offset for offset in rng.normal(size=20)])
    assert fitted.median_p_value(heavy(rng)) > 0.05
    assert fitted.median_p_value(heavy(rng) + 8) < 1e-4
    assert fitted.median_p_value(heavy(rng) - 8) < 1e-4
    assert fitted.median_p_value(np.full((3, 3), np.nan)) == 1


def test_two_images_cannot_tell():
    assert MapCalibration.fit(maps(n=2)).median_p_value(np.full((4, 4), 1e9)) == 1


def test_images_of_a_specimen_are_one_observation():
    """Ten images of each of four specimens show how much four medians vary, not how much forty do."""
    rng = np.random.default_rng(0)
    offsets = {"a": -1.0, "b": 0.0, "c": 0.5, "d": 1.5}
    names = [name for name in offsets for _ in range(10)]
    values = [heavy(rng) + offsets[name] for name in names]
    fitted = MapCalibration.fit(values, names)
    assert fitted.n_specimens == 4
    assert fitted.median_sd == pytest.approx(np.std(list(offsets.values()), ddof=1), rel=0.05)
    alone = MapCalibration.fit(values[::10], names[::10])
    assert fitted.median_p_value(heavy(rng) + 8) == pytest.approx(alone.median_p_value(heavy(rng) + 8), rel=0.2)
    assert fitted.median_p_value(heavy(rng) + 8) > 50 * MapCalibration.fit(values).median_p_value(heavy(rng) + 8)


def test_variation_within_a_specimen_is_normal_too():
    """Ten images of each of ten specimens; medians vary by 0.3 between specimens and by 1 within them."""
    rng = np.random.default_rng(0)
    n_marked, n = 0, 0
    for _ in range(30):
        names = [str(i) for i in range(10) for _ in range(10)]
        specimens = dict(zip(map(str, range(10)), 0.3 * rng.normal(size=10), strict=True))
        maps = [np.full((8, 8), specimens[name] + rng.normal()) + 1e-3 * rng.normal(size=(8, 8)) for name in names]
        fitted = MapCalibration.fit(maps, names)
        assert fitted.median_sd == pytest.approx(np.hypot(0.3, 1), rel=0.5)
        for _ in range(50):
            n_marked += fitted.median_p_value(np.full((8, 8), 0.3 * rng.normal() + rng.normal())) < 0.02
            n += 1
    assert n_marked / n < 0.03


# What there is to fit


def test_fewer_values_have_the_kind_of_tail_of_more():
    """Tails without one fold are compared with tails with it: both measured beyond the quantile, or both assumed."""
    small, large = maps(n=1, kind=lambda rng: chi_squared(rng, (12, 13))), maps(n=3)
    assert MapCalibration.fit(small).tail.is_assumed
    assert not MapCalibration.fit(large).tail.is_assumed
    far = np.array([10.0])
    own = MapCalibration.fit(small).tail.log10_tail(far)
    measured = MapCalibration.fit(small, like=MapCalibration.fit(large)).tail.log10_tail(far)
    assert measured < own - 1
    assumed = MapCalibration.fit(large, like=MapCalibration.fit(small)).tail.log10_tail(far)
    assert assumed > MapCalibration.fit(large).tail.log10_tail(far) + 1


def test_missing_positions_are_left_out():
    values = maps()
    holes = [m.copy() for m in values]
    for m in holes:
        m[::3] = np.nan
    fitted = MapCalibration.fit([*holes, np.full((3, 3), np.nan)])
    assert fitted.tail.n_values == sum(int(np.isfinite(m).sum()) for m in holes)
    assert fitted.n_specimens == len(holes)
    at = np.linspace(-0.8, 2, 30)
    np.testing.assert_allclose(
        fitted.tail.log10_tail(at), MapCalibration.fit(values).tail.log10_tail(at), rtol=0.3, atol=0.05
    )
    measured = fitted.log10_tail(holes[0])
    assert (measured[::3] == 0).all()
    assert np.isfinite(measured).all()
    assert measured.shape == holes[0].shape
    assert (fitted.log10_tail(np.full((3, 3), np.nan)) == 0).all()


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="at least 50 held-out positions are needed, not 49"):
        MapCalibration.fit([np.ones((7, 7))])
    with pytest.raises(ValueError, match="not 0"):
        MapCalibration.fit([])
    assert MapCalibration.fit([np.random.default_rng(0).random((1, 25)), np.random.default_rng(1).random((25, 1))])


@pytest.mark.parametrize("value", [0.0, 1.0, 3e38])
def test_constant_maps(value):
    fitted = MapCalibration.fit([np.full((10, 10), value)])
    log10_p = fitted.log10_tail(np.array([[0.0, value, value, value * 1.1, 3.4e38]]))
    assert np.isfinite(log10_p).all()
    assert (log10_p <= 0).all()
    assert fitted.correlation_area >= 1
    # an image of one value is its own median: none of it is anomalous, whatever float32 makes of it
    assert (fitted.log10_tail(np.full((5, 5), value / 3, np.float32)) == 0).all()


def test_equal_values_are_one_grey_level():
    rng = np.random.default_rng(0)
    values = flat([np.round(chi_squared(rng), 1) for _ in range(4)])
    tail = Tail.fit(values)
    assert (np.diff(tail.values) > 0).all()
    assert (np.diff(tail.log10_p) < 0).all()
    # the probability of at least this much, not of more than this much
    for value in (0.8, 1.0, 1.2):
        (log10_p,) = tail.log10_tail(np.array([value]))
        assert 10**log10_p >= 0.9 * (values >= value).mean()


def test_dictionaries_bring_back_the_same():
    fitted = MapCalibration.fit(maps(heavy))
    assert MapCalibration.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False))) == fitted


def _tails(seed):
    rng = np.random.default_rng(seed)
    return [
        Tail.fit(values)
        for values in (
            rng.standard_normal(500),
            rng.standard_t(3, 300),
            rng.exponential(size=100),
            np.round(rng.normal(size=700)),
        )
    ]


@pytest.mark.parametrize("seed", range(10))
def test_no_tail_is_above_the_envelope(seed):
    tails = _tails(seed)
    envelope = Tail.envelope(tails)
    values = np.concatenate([np.linspace(-6, 12, 3000), np.geomspace(12, 1e9, 300)])
    highest = np.max([tail.log10_tail(values) for tail in tails], axis=0)
    found = envelope.log10_tail(values)
    assert (found >= highest - 1e-9).all()
    inside = (values > -4) & (highest > -6)
    assert (found[inside] <= highest[inside] + 0.1).all()
    assert (np.diff(found) <= 1e-12).all()


def test_the_envelope_of_one_tail_is_that_tail():
    tail = _tails(0)[0]
    values = np.linspace(-4, 8, 1000)
    np.testing.assert_allclose(Tail.envelope([tail]).log10_tail(values), tail.log10_tail(values), atol=0.02)


def test_the_statistics_of_the_first_image_of_each_specimen_are_kept():
    images = maps(heavy, 5)
    fitted = MapCalibration.fit(images, ["a", "b", "a", "c", "b"])
    assert fitted.profiles == tuple(profile_of(images[i]) for i in (0, 1, 3))
    assert fitted.profiles[0][0] == np.median(images[0])
    assert fitted.profiles[0][1] == pytest.approx(np.median(images[0]) - np.quantile(images[0], 0.1))


def test_calibrations_of_earlier_versions_have_no_statistics():
    fitted = MapCalibration.fit(maps())
    values = fitted.to_dict()
    values.pop("profiles")
    old = MapCalibration.from_dict(values)
    assert old.profiles == ()
    assert old.to_dict() == values
    assert old.tail == fitted.tail


@pytest.mark.parametrize("profiles", [[[0.0, 1.0]], [[math.nan, 1.0]] * 4, [[0.0]] * 4, [0.0] * 4])
def test_statistics_that_no_training_measures(profiles):
    values = MapCalibration.fit(maps()).to_dict()
    with pytest.raises((ValueError, TypeError)):
        MapCalibration.from_dict({**values, "profiles": profiles})


def test_anomalies_hardly_change_the_statistics():
    (image,) = maps(n=1)
    odd = image.copy()
    odd[:10, :20] += 100  # a tenth of the image
    where = odd > 50
    assert profile_of(odd, where) == pytest.approx(profile_of(image), abs=0.03)
    assert profile_of(odd)[0] > profile_of(odd, where)[0]
    everywhere = np.ones(image.shape, dtype=bool)
    assert profile_of(image + 100, everywhere)[0] == pytest.approx(100 + profile_of(image)[0])


def test_an_image_without_a_measured_position():
    assert np.isnan(profile_of(np.full((3, 3), np.nan))).all()
