"""Test for drift: evidence that the images of a sequence are no longer like the held-out ones.

Each image is described by a few statistics of its score maps. As long as images and held-out specimens are
exchangeable, the rank of an image among the held-out specimens and all images before it is uniform and independent of
the past, for every distribution. Bets on the ranks, whose expected gain is then 0, make a conformal test martingale:
the evidence, which starts at 1. By Ville's inequality the probability that it *ever* reaches 100 is at most 1 %.

The bets are densities of the rank if the statistic has moved by a number of standard deviations in one direction, since
one of the images. All of them share the stake: statistics, directions and sizes equally, image t by 1 / (t (t + 1)). A
change at the first image, the most frequent one, has half of the stake; a late one is found too, since many images are
known by then. The rank is taken among images before the change and since then, and the bets allow for it, so that a
few held-out specimens suffice.

References
----------
Vovk, V., Petej, I., Nouretdinov, I., Ahlberg, E., Carlsson, L., Gammerman, A. (2021). Retrain or not retrain: conformal
test martingales for change-point detection. PMLR 152, 191-210. arXiv:2102.10439.

Volkhonskiy, D., Burnaev, E., Nouretdinov, I., Gammerman, A., Vovk, V. (2017). Inductive conformal martingales for
change-point detection. PMLR 60, 132-153. arXiv:1706.03415.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr

__all__ = ["FEWEST_FOR_DRIFT", "LOG10_WARNING", "DriftTest", "log_bet"]

FEWEST_FOR_DRIFT = 3
"""Held-out specimens required to test for drift."""
LOG10_WARNING = 2.0
"""log10 of the evidence at which drift is reported: false warnings in at most 1 of 100 logs."""

# Changes that are bet on, in standard deviations of the statistic over images.
_CHANGES = (1.0, 2.5)
_BETS = np.array([sign * size for size in _CHANGES for sign in (1.0, -1.0)])
# A change is looked for at the first image and at the latest ones; the stake on the others is kept.
_LATEST = 50
# Halvings of the interval in which the value of a rank lies.
_N_HALVINGS = 17


class DriftTest:
    """Evidence against the exchangeability of a sequence of images with the held-out specimens.

    Parameters
    ----------
    held_out : sequence of sequence of float
        Values of the held-out specimens, for each statistic; a statistic with none takes no part.

    Attributes
    ----------
    log10_evidence : list of float
        log10 of the evidence after each image, up to a warning.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> test = DriftTest([rng.normal(size=20)])
    >>> for value in rng.normal(3, 1, size=8):
    ...     test.add([value], rng)
    >>> test.has_warned, test.change
    (True, 0)
    """

    def __init__(self, held_out: Sequence[Sequence[float]]) -> None:
        self._known = [sorted(values) for values in held_out if len(values)]
        self._is_used = [bool(len(values)) for values in held_out]
        self._n_held_out = [len(values) for values in self._known]
        self._starts = np.zeros(0, dtype=np.int64)
        self._log_gains = np.zeros((0, len(self._known), len(_BETS)))
        self._kept = 1.0  # stake of changes that are not looked for: those to come, and those long ago
        self.log10_evidence: list[float] = []

    @property
    def can_test(self) -> bool:
        """True if enough specimens were held out."""
        return max(self._n_held_out, default=0) >= FEWEST_FOR_DRIFT

    @property
    def has_warned(self) -> bool:
        """True if the evidence has reached 100, ever."""
        return bool(self.log10_evidence) and self.log10_evidence[-1] >= LOG10_WARNING

    @property
    def change(self) -> int:
        """Number, from 0, of the image since which the images differ, most probably."""
        return int(self._starts[self._log_gains.max(axis=(1, 2)).argmax()]) - 1

    def add(self, values: Sequence[float], rng: np.random.Generator) -> None:
        """Add the next image; nothing is counted after a warning.

        Parameters
        ----------
        values : sequence of float
            Its statistics, in the order of the held-out ones; NaN for one that is unknown.
        rng : Generator
            Breaks ties; it must not depend on the values.
        """
        if self.has_warned or not self.can_test:
            return
        image = len(self.log10_evidence) + 1
        self._starts = np.append(self._starts, image)
        self._log_gains = np.concatenate([self._log_gains, np.zeros((1, *self._log_gains.shape[1:]))])
        self._kept -= float(_stake(self._starts)[-1])
        n_moved = (image - self._starts + 1)[:, None]
        used = [value for value, is_used in zip(values, self._is_used, strict=True) if is_used]
        for i, (value, known) in enumerate(zip(used, self._known, strict=True)):
            tie = rng.random()
            if math.isnan(value):
                continue
            above = len(known) - bisect.bisect_right(known, value)
            equal = bisect.bisect_right(known, value) - bisect.bisect_left(known, value)
            p = (above + tie * (equal + 1)) / (len(known) + 1)
            n_before = np.maximum(len(known) + 1 - n_moved, 1)
            self._log_gains[:, i] += log_bet(p, n_before, n_moved, _BETS[None, :])
            bisect.insort(known, value)
        if len(self._starts) > _LATEST + 1:
            self._kept += math.exp(self._log_wealth()[1])
            self._starts, self._log_gains = np.delete(self._starts, 1), np.delete(self._log_gains, 1, axis=0)
        log_all = float(np.logaddexp(logsumexp(self._log_wealth()), math.log(self._kept)))
        self.log10_evidence.append(log_all / math.log(10))

    def _log_wealth(self) -> NDArray[np.float64]:
        """Return the logarithm of stake times gain for each start of a change."""
        n_bets = self._log_gains[0].size
        log_stakes = np.log(_stake(self._starts) / n_bets)
        wealth: NDArray[np.float64] = logsumexp(self._log_gains, axis=(1, 2)) + log_stakes
        return wealth


def _stake(image: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the part of the stake on a change at an image, counted from 1; those of all images sum to 1."""
    stake: NDArray[np.float64] = 1.0 / (image * (image + 1.0))
    return stake


def log_bet(
    p: float | NDArray[np.floating],
    n_before: NDArray[np.integer],
    n_moved: NDArray[np.integer],
    change: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the logarithm of the density of a rank if the last images have moved; its integral over p is 1.

    Images before the change are standard normal, those since then have the mean `change`: the density is that of the
    new image over that of all images.

    Parameters
    ----------
    p : float or array
        Fraction of the known images above the new one, ties broken at random: uniform from 0 to 1 without a change.
    n_before : array of int
        Images before the change, 1 or more.
    n_moved : array of int
        Images since the change, the new one included, 1 or more.
    change : array of float
        Change in standard deviations. The arrays are broadcast together.

    Returns
    -------
    array, float64
    """
    n_before, n_moved, change = np.broadcast_arrays(n_before, n_moved, change)
    n_all = n_before + n_moved
    low, high = np.minimum(-9.0, change - 9.0), np.maximum(9.0, change + 9.0)
    for _ in range(_N_HALVINGS):  # the value that the fraction p of all images exceeds
        middle = (low + high) / 2
        is_below = n_before * ndtr(-middle) + n_moved * ndtr(change - middle) > p * n_all
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    log_ratio = change * (change / 2 - (low + high) / 2)  # of the densities before and since the change
    bet: NDArray[np.float64] = np.log(n_all) - np.logaddexp(np.log(n_before) + log_ratio, np.log(n_moved))
    return bet
