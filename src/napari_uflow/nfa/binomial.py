"""Block test: count of extreme latents in a window against a binomial law.

A latent is a candidate if its square reaches a threshold that an N(0, 1) latent exceeds with probability q. In a
window of n positions the candidates of all C channels, divided by C, are compared with a binomial law of n trials. The
division makes C channels count as one, so the test has little power; it is kept for comparison with published results.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import betainc, betaln, xlog1py, xlogy
from scipy.stats import binom, chi2
from skimage.transform import resize

__all__ = ["binomial_log10_nfa", "binomial_log10_tail", "block_log10_tail", "candidate_threshold"]

_LN10 = float(np.log(10.0))
_MAX_TERMS = 100_000
# Sums of counts over a window are multiples of 1 / C; rounding removes the errors of the running sums.
_DECIMALS = 9


def candidate_threshold(probability_thr: float) -> float:
    """Return the squared latent from which it is a candidate: a quantile of chi-squared with one degree of freedom.

    Parameters
    ----------
    probability_thr : float
        Probability, between 0 and 1, that an N(0, 1) latent is *not* a candidate.

    Raises
    ------
    ValueError
        If it is not strictly between 0 and 1.

    Examples
    --------
    >>> round(candidate_threshold(0.9), 3)
    2.706
    """
    if not 0 < probability_thr < 1:
        raise ValueError(f"probability_thr must be between 0 and 1, got {probability_thr}")
    return float(chi2.ppf(probability_thr, 1))


def binomial_log10_tail(
    count: ArrayLike, n_trials: int, probability: float, *, continuous: bool = False
) -> NDArray[np.float64]:
    """Return log10 P(X >= count) for X binomial.

    Parameters
    ----------
    count : (...) array, float
        Successes, 0 to `n_trials`; not necessarily whole.
    n_trials : int
        Number of trials, at least 1.
    probability : float
        Probability of a success, between 0 and 1.
    continuous : bool
        False gives P(X >= ceil(count)). True gives its continuation to real counts by the regularised incomplete beta
        function, I_probability(count, n_trials - count + 1), which is equal at whole counts.

    Returns
    -------
    (...) array, float64
        From 0 (count 0) down to n_trials * log10(probability); always finite.

    References
    ----------
    NIST Digital Library of Mathematical Functions, 8.17.5 (binomial sums) and 8.17.8 (series).
    https://dlmf.nist.gov/8.17

    Examples
    --------
    All of nine trials with probability 0.1 succeed with probability 1e-9:

    >>> import numpy as np
    >>> binomial_log10_tail(np.array([0, 9]), n_trials=9, probability=0.1).round(6)
    array([ 0., -9.])
    """
    x = np.clip(np.asarray(count, dtype=np.float64), 0.0, n_trials)
    if not continuous:
        x = np.ceil(np.round(x, _DECIMALS))
    levels, where = np.unique(x, return_inverse=True)
    values = np.array([_log_beta_tail(level, n_trials, probability) for level in levels])
    return np.asarray(values[where].reshape(x.shape) / _LN10) + 0.0


def _log_beta_tail(a: float, n: int, q: float) -> float:
    """Return ln I_q(a, n - a + 1), also far below the smallest float64."""
    if a <= 0:
        return 0.0
    if a <= n * q:  # the bulk: the logarithm of a number near 1
        return float(np.log(betainc(a, n - a + 1.0, q)))
    b = n - a + 1.0
    # I_q(a, b) = q^a (1 - q)^b / (a B(a, b)) * (1 + sum_k prod_{j=1..k} (a + b + j - 1) / (a + j) q^j), positive terms
    # that fall by a ratio below 1 for a > n q.
    total, term = 1.0, 1.0
    for j in range(_MAX_TERMS):
        term *= q * (a + b + j) / (a + 1 + j)
        total += term
        if term < 1e-16 * total:
            break
    return float(xlogy(a, q) + xlog1py(b, -q) - np.log(a) - betaln(a, b) + np.log(total))


def block_log10_tail(
    candidates: NDArray[np.floating],
    n_channels: int,
    *,
    window_size: float,
    probability_thr: float,
    high_precision: bool = False,
    published: bool = False,
) -> NDArray[np.float64]:
    """Test the window around every position of one level.

    Parameters
    ----------
    candidates : (M, N) array, float
        Number of channels, 0 to C, whose latent is a candidate; NaN (not measured) counts as 0.
    n_channels : int
        Number of channels C, at least 1.
    window_size : float
        Side of the window in positions of this level; it extends ``max(floor(window_size / 2), 1)`` to each side. The
        map is continued by reflection at the border.
    probability_thr : float
        Probability that an N(0, 1) latent is not a candidate.
    high_precision : bool
        True for the continuous tail (see :func:`binomial_log10_tail`), without jumps between whole counts.
    published : bool
        True for P(X > count) in place of P(X >= count), as in the published code: a window full of candidates is then
        -inf, and `high_precision` has no effect.

    Returns
    -------
    (M, N) array, float64
        log10 of the probability.

    References
    ----------
    Tailanian, M., Pardo, A., Musé, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (versions 1 and 2 of arXiv 2211.12353).
    """
    half = max(int(window_size // 2), 1)
    side = 2 * half + 1
    counts = np.nan_to_num(np.asarray(candidates, dtype=np.float64), nan=0.0)
    x = np.round(ndimage.uniform_filter(counts, side, mode="mirror") * side**2 / n_channels, _DECIMALS)
    n, q = side**2, 1.0 - probability_thr
    if published:
        with np.errstate(divide="ignore"):
            log10_p: NDArray[np.float64] = binom.logsf(np.floor(x), n, q) / _LN10
        return log10_p
    return binomial_log10_tail(x, n, q, continuous=high_precision)


def binomial_log10_nfa(
    candidates: Sequence[NDArray[np.floating]],
    n_channels: Sequence[int],
    strides: Sequence[int],
    shape: tuple[int, int],
    *,
    window_size: float = 5.0,
    probability_thr: float = 0.9,
    high_precision: bool = False,
    published: bool = False,
) -> NDArray[np.float32]:
    """Return log10 NFA of the block test for every pixel of the image.

    Parameters
    ----------
    candidates : sequence of (M_l, N_l) arrays, float
        Number of candidates at each position, finest level first.
    n_channels, strides : sequence of int
        Channels and pixels per position of each level.
    shape : (int, int)
        Rows and columns (M, N) of the image.
    window_size : float
        Side of the window on the finest level, in positions; half as many on the next level, and so on.
    probability_thr, high_precision, published
        As in :func:`block_log10_tail`.

    Returns
    -------
    (M, N) array, float32
        ``log10(sum of all positions) + sum over levels of log10 p``, each level interpolated bilinearly between the
        centres of its positions, like the heatmap. Always finite.

    Notes
    -----
    Adding the levels' logarithms treats them as independent, as published.
    """
    total = np.full(shape, np.log10(sum(c.size for c in candidates)), dtype=np.float32)
    for level, (counts, channels, stride) in enumerate(zip(candidates, n_channels, strides, strict=True)):
        log10_p = block_log10_tail(
            counts,
            channels,
            window_size=window_size / 2**level,
            probability_thr=probability_thr,
            high_precision=high_precision,
            published=published,
        )
        size = (counts.shape[0] * stride, counts.shape[1] * stride)
        # Half-pixel geometry; -inf would become NaN in an interpolation.
        finite = np.maximum(log10_p, np.finfo(np.float32).min / 8).astype(np.float32)
        total += resize(finite, size, order=1, mode="edge", anti_aliasing=False, preserve_range=True)[
            : shape[0], : shape[1]
        ]
    return total
