"""Bounds beside the mean: on the part of normal images with a false alarm, and on their number at all thresholds.

Both come from the counts of the held-out specimens that the guarantee uses, and need no assumption about their law.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtri

from napari_uflow.nfa.conformal import ConformalOffset, counts_images, loss_bound

__all__ = ["CONFIDENCE", "any_part", "most_false", "specimens_needed_for_all"]

CONFIDENCE = 0.9
"""Confidence of the bounds."""
# The number of false regions is compared with C plus the mean number of the held-out images to the power P. Of C = .1,
# .3, 1, 2, 4 and P = .5, .75, 1, these bounds are the lowest on ten laws together (9, 20 and 100 specimens; .1 to 10
# accepted): medians of 1.4, 2.3, 4.3, 8.4 and 19 regions with 20 specimens for .1, .3, 1, 3 and 10 accepted, where 90 %
# of images have at most .1, 1.1, 2.6, 5.9 and 13. Functions of the nominal number alone gave 3 to 5 times as many.
_C, _P = 0.3, 0.75
# What is reported at a number is guaranteed for this many times as many, see `ConformalOffset.guaranteed`.
_REPORTED = 1.005


def any_part(offset: ConformalOffset, false_alarms: float, n_areas: float = 1.0) -> float:
    """Bound the part of normal images with any false alarm, with a confidence of 90 % over the held-out specimens.

    Parameters
    ----------
    offset : ConformalOffset
        Held-out specimens.
    false_alarms : float
        Accepted false alarms per image, fixed before the held-out specimens were seen.
    n_areas : float
        Calibrated areas of an image, at least 1.

    Returns
    -------
    float
        Between 0 and 1; 1 if nothing better is known.

    Notes
    -----
    Let R(t) be the part of images with a false alarm at threshold t, and L_i(t) the part of such images of specimen i.
    The guarantee uses the largest threshold at which the sum of the L_i, or of larger numbers, is at most (n + 1)
    epsilon - B. If R exceeds x there, the sum was as small already at the fixed threshold where R reaches x, at which
    the L_i are independent with means of x or more. A binomial tail bounds the probability of that. With one image per
    specimen and B = 1 it is exact (R is at most Beta(r, n + 1 - r), r = floor((n + 1) epsilon)); with several, whose
    L_i are fractions, it is increased by the factor e (Bentkus). For large epsilon the inequality of Dvoretzky, Kiefer
    and Wolfowitz is better. It bounds R at all thresholds at once, from one image of each specimen.

    References
    ----------
    Vovk, V. (2012). Conditional validity of inductive conformal predictors. arXiv:1209.2673.

    Bates, S., Angelopoulos, A., Lei, L., Malik, J., Jordan, M. I. (2021). Distribution-free, risk-controlling
    prediction sets. arXiv:2101.02703 (inequality of Bentkus: section 3.1).

    Massart, P. (1990). The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality. doi:10.1214/aop/1176990746.

    Examples
    --------
    Nine specimens, one image each: R is at most Beta(1, 9) at 0.1.

    >>> from napari_uflow.nfa.conformal import HeldOutSpecimen
    >>> nine = ConformalOffset(tuple(HeldOutSpecimen(str(i), ((),)) for i in range(9)))
    >>> round(any_part(nine, 0.1), 3)
    0.226
    """
    n, share = offset.n_specimens, _REPORTED * false_alarms / n_areas
    if share < offset.smallest_guaranteed:
        return 1.0
    most = (n + 1) * share - loss_bound(share, n)
    has_one_each = all(len(specimen.images) == 1 for specimen in offset.specimens)
    n_any, level = (math.floor(most), 1.0) if has_one_each else (math.ceil(most), 1 / math.e)
    part = float(bdtri(n_any, n, (1 - CONFIDENCE) * level)) if n_any < n else 1.0
    deviation = math.sqrt(-math.log(1 - CONFIDENCE) / (2 * n))
    # Both are bounds, but not the lower of both: the choice must not depend on what was counted.
    if part > share / 2 + deviation and not counts_images(share, n):
        # The image of each specimen is drawn by lot: specimens may list their images in an order that matters.
        lots = np.random.default_rng(0)
        drawn = [specimen.images[int(lots.integers(len(specimen.images)))] for specimen in offset.specimens]
        threshold = offset.threshold(share)
        part = sum(bool(image) and image[0] <= threshold for image in drawn) / n + deviation
    return min(1.0, n_areas * part)


def most_false(offset: ConformalOffset, false_alarms: float, n_areas: float = 1.0) -> int | None:
    """Bound the false alarms of a normal image, at all numbers that may be accepted at once, with 90 % probability.

    Parameters
    ----------
    offset : ConformalOffset
        Held-out specimens.
    false_alarms : float
        Accepted false alarms per image. It may be chosen after a look at the regions of the image.
    n_areas : float
        Calibrated areas of an image, at least 1.

    Returns
    -------
    int or None
        With 90 % probability over the image and the held-out specimens, no number accepted for the image leads to more
        false alarms than this function returns for it. None if there are too few specimens, see
        :func:`specimens_needed_for_all`.

    Notes
    -----
    Let N_i(t) be the false alarms of n + 1 exchangeable images, the last of them the new one, and M(t) their mean. The
    scores S_i = sup over t of N_i(t) / g(M(t)) are exchangeable, so that the new one is among the (n + 1) 90 % smallest
    with 90 % probability. M contains N_new, which is unknown, but only increases M and decreases the other scores: with
    q the quantile of those computed as if N_new were 0, N_new(t) <= q g(M_0(t) + N_new(t) / (n + 1)) at all t. The
    bound is the largest number of which this is true. If a specimen has several images, each counts as a part of it.
    Every calibrated area of a larger image gets its part of the 10 %.

    Examples
    --------
    Nine specimens without any region:

    >>> from napari_uflow.nfa.conformal import HeldOutSpecimen
    >>> nine = ConformalOffset(tuple(HeldOutSpecimen(str(i), ((),)) for i in range(9)))
    >>> most_false(nine, 1.0), most_false(nine, 1.0, n_areas=2)
    (0, None)
    """
    n, n_windows = offset.n_specimens, math.ceil(n_areas)
    if n < specimens_needed_for_all(n_areas):
        return None
    weights = [np.full(len(specimen.images), 1 / len(specimen.images)) for specimen in offset.specimens]
    images = [np.asarray(image) for specimen in offset.specimens for image in specimen.images]
    mean = _MeanNumber(images, np.concatenate(weights), n)
    scores = np.array([max(np.arange(1, len(im) + 1) / _scale(mean(im)), default=0.0) for im in images])
    order = np.argsort(scores)[::-1]
    above = np.cumsum(np.concatenate(weights)[order]) + 1
    n_above = int(np.searchsorted(above, (1 - CONFIDENCE) / n_windows * (n + 1) * (1 + 1e-9), side="right"))
    quantile = float(scores[order][min(n_above, len(scores) - 1)])
    at_threshold = float(mean(np.array([offset.threshold(_REPORTED * false_alarms / n_areas)]))[0])
    most = 0
    while most + 1 <= quantile * _scale(at_threshold + (most + 1) / (n + 1)) * (1 + 1e-9):
        most += 1
    return n_windows * most


def specimens_needed_for_all(n_areas: float = 1.0) -> int:
    """Return the held-out specimens required for a statement about all numbers at once.

    Examples
    --------
    >>> specimens_needed_for_all(), specimens_needed_for_all(14)
    (9, 139)
    """
    return round(math.ceil(n_areas) / (1 - CONFIDENCE)) - 1


class _MeanNumber:
    """Mean number of regions of the held-out images at a threshold, and of a new image without any."""

    def __init__(self, images: list[NDArray[np.float64]], weights: NDArray[np.float64], n_specimens: int) -> None:
        values = np.concatenate(images)
        order = np.argsort(values, kind="stable")
        each = np.repeat(weights, [len(image) for image in images])[order]
        self._values = values[order]
        self._sums = np.concatenate([[0.0], np.cumsum(each)]) / (n_specimens + 1)

    def __call__(self, log10_t: NDArray[np.float64]) -> NDArray[np.float64]:
        sums: NDArray[np.float64] = self._sums[np.searchsorted(self._values, log10_t, side="right")]
        return sums


def _scale(mean: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
    return _C + mean**_P
