"""Upper tail of the energy: the mean of squares of independent N(0, 1) latents."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincc

from napari_uflow.nfa.compiled import compiled

__all__ = ["chernoff_log10_tail", "chi2_log10_tail"]

_LARGEST = float(np.finfo(np.float32).max)  # energies are float32; +inf counts as the largest of them
_SMALLEST = float(np.finfo(np.float32).tiny)  # keeps the two-sided Chernoff expression finite at energy 0
_FAR_TAIL = 1e-280  # below it gammaincc becomes subnormal and then 0
_LN10 = math.log(10.0)


def chi2_log10_tail(energy: ArrayLike, n_channels: int) -> NDArray[np.float64]:
    """Return log10 of the exact probability that N(0, 1) latents have at least this energy.

    With C independent N(0, 1) channels, C * energy follows a chi-square law with C degrees of freedom, hence
    P = Q(C / 2, C * energy / 2) with the regularised upper incomplete gamma function Q.

    Parameters
    ----------
    energy : (...) array, float
        Mean of z squared over the channels, 1 on average. Negative values count as 0. NaN is a position that was not
        measured and is never significant. Values above the largest float32, including +inf, count as the largest
        float32 (3.4e38).
    n_channels : int
        Number of channels C, at least 1.

    Returns
    -------
    (...) array, float64
        log10 P, from 0 (energy 0 and NaN) down to about -7.4e37 * C; always finite. Relative error below 1e-10;
        non-increasing for energies that are float32 numbers.

    Raises
    ------
    ValueError
        If `n_channels` is below 1.

    Notes
    -----
    Below the mean the result is log1p of the lower tail, which keeps its relative precision if P is close to 1. For
    P below 1e-280 the logarithm of Legendre's continued fraction is computed by Lentz's method.

    References
    ----------
    NIST Digital Library of Mathematical Functions, 8.2.4 (Q), 8.9.2 (continued fraction). https://dlmf.nist.gov/8.9

    Examples
    --------
    With two channels P = exp(-energy):

    >>> import numpy as np
    >>> energy = np.array([[0.0, 1.0, np.log(10)], [0.0, 0.0, 0.0], [np.nan, 0.0, 2 * np.log(10)]])
    >>> chi2_log10_tail(energy, n_channels=2).round(3)
    array([[ 0.   , -0.434, -1.   ],
           [ 0.   ,  0.   ,  0.   ],
           [ 0.   ,  0.   , -2.   ]])
    """
    values = _checked(energy, n_channels)
    a = 0.5 * n_channels
    x = a * values.ravel()
    log10_p = np.empty_like(x)
    low = x < a
    log10_p[low] = np.log1p(-gammainc(a, x[low])) / _LN10
    x_high = x[~low]
    upper = gammaincc(a, x_high)
    far = upper < _FAR_TAIL
    upper[far] = 1.0
    log10_high = np.log10(upper)
    log10_high[far] = _far_tail(a, x_high[far])
    log10_p[~low] = log10_high
    return log10_p.reshape(values.shape) + 0.0  # + 0.0 turns the -0.0 of certain events into 0.0


def chernoff_log10_tail(energy: ArrayLike, n_channels: int, one_sided: bool = True) -> NDArray[np.float64]:
    """Return log10 of Chernoff's bound of :func:`chi2_log10_tail`: -(C / 2) * (m - 1 - ln m) / ln 10 at energy m.

    Parameters
    ----------
    energy : (...) array, float
        Mean of z squared over the channels; negative, NaN and infinite values as in :func:`chi2_log10_tail`.
    n_channels : int
        Number of channels C, at least 1.
    one_sided : bool
        True for the bound of the upper tail, which is 1 (log10 0) at energies up to 1. False gives the expression of
        the published code, which is below 0 there too, so that latents too close to 0 are reported; it reproduces
        published numbers.

    Returns
    -------
    (...) array, float64
        log10 of the bound, 0 for NaN; always finite (energies below 1.2e-38 count as 1.2e-38).

    Raises
    ------
    ValueError
        If `n_channels` is below 1.

    References
    ----------
    Tailanian, M., Pardo, A., Musé, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (the bound of the region test).

    Examples
    --------
    >>> import numpy as np
    >>> chernoff_log10_tail(np.array([0.5, 1.0, np.e]), n_channels=2).round(3)
    array([ 0.   ,  0.   , -0.312])
    """
    values = _checked(energy, n_channels)
    values[np.isnan(np.asarray(energy))] = 1.0
    np.maximum(values, 1.0 if one_sided else _SMALLEST, out=values)
    return (-0.5 * n_channels / _LN10) * (values - 1.0 - np.log(values)) + 0.0


def _checked(energy: ArrayLike, n_channels: int) -> NDArray[np.float64]:
    """Return the energies as a new array in 0 ... 3.4e38 with 0 for NaN."""
    if n_channels < 1:
        raise ValueError(f"n_channels must be at least 1, got {n_channels}")
    values = np.array(energy, dtype=np.float64)
    values[np.isnan(values)] = 0.0
    return np.clip(values, 0.0, _LARGEST, out=values)


@compiled
def _far_tail(a: float, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log10 Q(a, x) for x well above a + 1, by the continued fraction (modified Lentz)."""
    out = np.empty_like(x)
    ln_gamma = math.lgamma(a)
    for i in range(x.size):
        b = x[i] + 1.0 - a
        c = 1e300
        d = 1.0 / b
        h = d
        for k in range(1, 10_000):
            term = -k * (k - a)
            b += 2.0
            d = 1.0 / (term * d + b)
            c = b + term / c
            step = c * d
            h *= step
            if abs(step - 1.0) < 1e-15:
                break
        out[i] = (a * math.log(x[i]) - x[i] - ln_gamma + math.log(h)) / _LN10
    return out
