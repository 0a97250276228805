import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.nfa.counts import ALPHA, BETA, LOG10_BETA, log10_tests_for_any_size, log10_tests_published

# OEIS A001168
FIXED_POLYOMINOES = [
    1,
    2,
    6,
    19,
    63,
    216,
    760,
    2725,
    9910,
    36446,
    135268,
    505861,
    1903890,
    7204874,
    27394666,
    104592937,
    400795844,
    1540820542,
    5940738676,
    22964779660,
    88983512783,
    345532572678,
    1344372335524,
    5239988770268,
    20457802016011,
    79992676367108,
    313224032098244,
    1228088671826973,
]


def test_the_formula_never_counts_too_few_shapes():
    for k, n_shapes in enumerate(FIXED_POLYOMINOES, start=1):
        assert n_shapes < ALPHA * BETA**k / k < 1.31 * n_shapes


@pytest.mark.parametrize(
    ("n", "log10_tests"), [(784, 476.92371), (50_000, 30439.6665), (1_000_000, 608800.4808), (10_000_000, 6088008.1952)]
)
def test_published_count_of_large_maps(n, log10_tests):
    assert log10_tests_published([n]) == pytest.approx(log10_tests, abs=6e-5)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_published_count_is_the_sum(sizes):
    direct = sum(n * math.fsum(ALPHA * BETA**r / r for r in range(1, n + 1)) for n in sizes)
    assert log10_tests_published(sizes) == pytest.approx(math.log10(direct), rel=1e-12, abs=1e-12)


@given(st.integers(1, 400), st.integers(1, 5))
def test_shares_of_all_sizes_sum_to_the_budget(n, n_levels):
    # A size k of one level may use up epsilon * share; each of its n * ALPHA * BETA**k / k regions uses its p ** k,
    # which is epsilon / (n_tests * BETA**k) for NFA = epsilon.
    n_tests = 10 ** log10_tests_for_any_size(n, n_levels)
    used = n_levels * math.fsum(n * ALPHA * BETA**k / k / (n_tests * BETA**k) for k in range(1, n + 1))
    assert used == pytest.approx(1.0, rel=1e-12)


def test_price_by_hand():
    assert log10_tests_for_any_size(1) == pytest.approx(math.log10(ALPHA))
    assert log10_tests_for_any_size(2) == pytest.approx(math.log10(ALPHA * 2 * 1.5))
    n = 10_000_000
    assert log10_tests_for_any_size(n, 3) == pytest.approx(math.log10(3 * ALPHA * n * (math.log(n) + 0.57721566)))
    assert pytest.approx(0.6088, abs=5e-5) == LOG10_BETA


@pytest.mark.parametrize("n", [0, -3])
def test_no_positions_are_refused(n):
    with pytest.raises(ValueError, match="at least 1"):
        log10_tests_for_any_size(n)
    with pytest.raises(ValueError, match="at least 1"):
        log10_tests_for_any_size(5, n)
    with pytest.raises(ValueError, match="at least 1"):
        log10_tests_published([4, n])


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="at least one entry"):
        log10_tests_published([])
