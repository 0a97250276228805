"""The POD curve recovers a known one, and its limits hold as often as stated."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from napari_uflow.errors import ConfigError
from napari_uflow.evaluation.pod import ALL_KINDS, PodRecord, fit_pod


def simulated(seed, n, a90, slope, contrast_slope=0.0):
    """Records of kinds with known a90 (at a contrast of 0.2)."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        kind = list(a90)[i % len(a90)]
        size, contrast = math.exp(rng.uniform(math.log(4), math.log(64))), math.exp(rng.uniform(-3, -0.5))
        odds = logit(0.9) + slope * math.log(size / a90[kind]) + contrast_slope * math.log(contrast / 0.2)
        known = contrast if contrast_slope else None
        records.append(PodRecord(kind, size, known, bool(rng.uniform() < expit(odds))))
    return records


def test_a_known_curve_is_recovered():
    everything, line, blob = fit_pod(simulated(0, 4000, {"line": 20.0, "blob": 12.0}, 2.5, 1.5), contrast=0.2)
    assert (everything.kind, everything.contrast, everything.n) == (ALL_KINDS, None, 4000)
    assert (line.kind, line.contrast, line.n) == ("line", 0.2, 2000)
    assert line.a90 == pytest.approx(20, rel=0.1)
    assert blob.a90 == pytest.approx(12, rel=0.1)
    assert line.slope == blob.slope == pytest.approx(2.5, rel=0.1)
    for curve in (line, blob):
        assert curve.pod(curve.a90) == pytest.approx(0.9)
        assert curve.a90 < curve.a90_95 < 1.15 * curve.a90
    assert list(line.pod([4, 64])) == sorted(line.pod([4, 64]))
    (_, brighter, _) = fit_pod(simulated(0, 4000, {"line": 20.0, "blob": 12.0}, 2.5, 1.5), contrast=0.4)
    assert brighter.a90 == pytest.approx(20 * 2 ** (-1.5 / 2.5), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("a90", "n"), [({"a": 16.0}, 60), ({"a": 10.0, "b": 20.0}, 60)])
def test_the_limit_holds_in_95_percent(a90, n):
    held = [
        curve.a90_95 is None or curve.a90_95 >= a90[curve.kind]
        for seed in range(60)
        for curve in fit_pod(simulated(seed, n, a90, 3.0))[1:]
    ]
    assert np.mean(held) >= 0.91
    strict = [fit_pod(simulated(seed, n, {"a": 10.0}, 3.0))[1].a90_95 for seed in range(20)]
    assert np.mean([limit is not None and limit < 40 for limit in strict]) > 0.9  # and says something


def test_separated_sizes_have_a_curve():
    sizes = np.geomspace(4, 64, 40)
    curve = fit_pod([PodRecord("a", size, None, bool(size > 15)) for size in sizes])[1]
    assert 12 < curve.a90 < 25
    assert curve.a90 < curve.a90_95 < 35
    assert math.isfinite(curve.slope)


def test_found_always_or_never():
    sizes = np.geomspace(4, 64, 40)
    always = fit_pod([PodRecord("a", size, None, True) for size in sizes])[1]
    assert always.a90 == pytest.approx(4)
    assert always.a90 <= always.a90_95 < 12
    assert (always.n, always.n_found) == (40, 40)
    never = fit_pod([PodRecord("a", size, None, False) for size in sizes])[1]
    assert (never.a90, never.a90_95) == (None, None)
    assert never.pod(64) < 0.2
    few = fit_pod([PodRecord("a", size, None, True) for size in np.geomspace(4, 64, 6)])[1]
    assert few.a90_95 is None  # six hits are consistent with less than 90 %


def test_more_missed_large_ones_give_no_size():
    sizes = np.geomspace(4, 64, 40)
    curve = fit_pod([PodRecord("a", size, None, bool(size < 15)) for size in sizes])[1]
    assert curve.slope == 0
    assert curve.a90 is None


@pytest.mark.parametrize("records", [[], [PodRecord("a", 9.0, None, True)]])
def test_too_few_records_have_no_curve(records):
    curves = fit_pod(records)
    assert len(curves) == 2 * len(records)
    assert all(curve.a90 is None and np.isnan(curve.pod(9.0)) for curve in curves)
    same = fit_pod([PodRecord("a", 9.0, None, True)] * 9)[1]
    assert (same.n_found, same.a90) == (9, None)


def test_the_contrast_is_that_of_the_records_by_default():
    records = [PodRecord("a", 9.0 + i, c, i > 4) for i, c in enumerate(np.geomspace(0.1, 0.4, 9))]
    assert fit_pod(records)[1].contrast == pytest.approx(0.2)
    mixed = [*records, *(PodRecord("b", 9.0 + i, None, i > 4) for i in range(9))]
    assert [curve.contrast for curve in fit_pod(mixed, contrast=0.3)] == [None, 0.3, None]
    with pytest.raises(ConfigError, match=r"0.1 to 0.4, not 0.5"):
        fit_pod(records, contrast=0.5)
    with pytest.raises(ConfigError, match="above 0"):
        fit_pod([PodRecord("a", 0.0, None, True)])
