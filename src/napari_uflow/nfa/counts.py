"""Number of tests: counts of polyominoes, for regions of every shape."""

from collections.abc import Sequence

import numpy as np
from scipy.special import digamma

__all__ = ["ALPHA", "BETA", "LOG10_BETA", "log10_tests_for_any_size", "log10_tests_published"]

# The number of fixed polyominoes (4-connected shapes up to translation) of k cells grows as ALPHA * BETA**k / k.
# Jensen & Guttmann (2000), J. Phys. A 33, L257, doi:10.1088/0305-4470/33/29/102. The formula is above the true count
# for k = 1 ... 28 (1.29 against 1, 2.6 against 2, 7.1 against 6, ...; OEIS A001168), so the number of tests is not
# underestimated.
ALPHA = 0.316915
BETA = 4.062570
LOG10_BETA = float(np.log10(BETA))

_N_TERMS = 64  # BETA**-64 is 1e-39: later terms of the published sum are lost in float64


def log10_tests_for_any_size(n_positions: int, n_levels: int = 1) -> float:
    """Return log10 of the number of tests if regions of every size share the accepted false alarms.

    The regions of k positions together get the share 1 / (k * H) of the accepted number of false alarms, with
    H = 1 + 1/2 + ... + 1/n, so that the shares of all sizes sum to one. There are at most n * ALPHA * BETA**k / k
    of them. Number of tests and share give, for a region R on one of L levels::

        log10 NFA(R) = log10(L * ALPHA * n * H) + |R| * (log10 p(R) + LOG10_BETA)

    This function is the first term; the caller adds `LOG10_BETA` per position (see
    :func:`~napari_uflow.nfa.segment.significant_regions`).

    Parameters
    ----------
    n_positions : int
        Number of positions n of the level's map, at least 1.
    n_levels : int
        Number of tested levels L, at least 1.

    Returns
    -------
    float
        log10 of the number of tests. It grows with log n: a larger image costs little significance.

    Raises
    ------
    ValueError
        If a number is below 1.

    Notes
    -----
    H is the harmonic number itself, digamma(n + 1) + 0.5772..., and not its limit ln n + 0.5772..., which is too small
    (by 42 % for a single position, by 1e-5 for 10,000): the shares would sum to more than one.

    References
    ----------
    Jensen, I., Guttmann, A. J. (2000). Statistics of lattice animals (polyominoes) and polygons. J. Phys. A 33(29),
    L257-L263. doi:10.1088/0305-4470/33/29/102 (ALPHA and BETA).

    Examples
    --------
    One level of 3 x 3 positions: log10(0.317 x 9 x (1 + 1/2 + ... + 1/9)).

    >>> round(log10_tests_for_any_size(9), 3)
    0.907
    """
    _check("n_positions", n_positions)
    _check("n_levels", n_levels)
    harmonic = float(digamma(n_positions + 1.0)) + np.euler_gamma
    return float(np.log10(n_levels * ALPHA * n_positions * harmonic))


def log10_tests_published(shape_sizes: Sequence[int]) -> float:
    """Return log10 of the number of tests of the published method: all polyominoes at all positions of all levels.

    The number is sum_l n_l * sum_{r=1..n_l} ALPHA * BETA**r / r for regions of any size. Regions as large as the map
    dominate it, so its logarithm grows with n (477 for 28 x 28).

    Parameters
    ----------
    shape_sizes : sequence of int
        Number of positions n_l of each level's map, each at least 1.

    Returns
    -------
    float
        log10 of the number of tests of all levels together.

    Raises
    ------
    ValueError
        If there is no level, or a number is below 1.

    Notes
    -----
    From the last term down, the inner sum is BETA**n / n * sum_j BETA**-j * n / (n - j). Its terms fall by a factor of
    four, so 64 of them give float64 precision for every n; up to n = 64 that is the whole sum.

    References
    ----------
    Tailanian, M., Pardo, A., Musé, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (N_T of the region test).

    Examples
    --------
    A map of 28 x 28 positions has 10^477 tests:

    >>> round(log10_tests_published([28 * 28]))
    477
    """
    if len(shape_sizes) == 0:
        raise ValueError("shape_sizes must have at least one entry, got none")
    log10_terms = np.empty(len(shape_sizes))
    for level, n in enumerate(shape_sizes):
        _check("shape_sizes", n)
        j = np.arange(min(n, _N_TERMS), dtype=np.float64)
        log10_terms[level] = np.log10(ALPHA) + n * LOG10_BETA + np.log10(np.sum(BETA**-j * n / (n - j)))
    largest = log10_terms.max()
    return float(largest + np.log10(np.sum(10.0 ** (log10_terms - largest))))


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
