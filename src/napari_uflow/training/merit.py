"""Figure of merit of evidence on planted defects: how often a defect stands out from whole normal images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_RATE", "Difference", "Maxima"]

LARGEST_RATE = 1 - math.exp(-1)
"""Largest fraction of normal images with a false alarm that counts: that at one false alarm per image (Poisson).

Above it a threshold is of no use, whatever it finds.
"""

# Fraction of normal images with a false alarm at which defects are counted.
_RATE = 0.1
# Standard errors by which a difference is clear.
_CLEAR = 2.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of the merits of two kinds of evidence on the same defects.

    Attributes
    ----------
    mean : float
        First minus second, -1 to 1.
    error : float
        Standard error; infinite if it is not known.
    """

    mean: float
    error: float

    @property
    def is_clear(self) -> bool:
        """The first is better by more than two standard errors."""
        return self.mean > _CLEAR * self.error

    @property
    def is_within_error(self) -> bool:
        """The first is worse by no more than one standard error."""
        return self.mean >= -self.error


@dataclass(frozen=True, eq=False)
class Maxima:
    """Highest evidence of each planted defect, and of each normal tile.

    Attributes
    ----------
    of_defects : (n,) array
        Maximum over the positions of each planted defect.
    of_tiles : (T,) array
        Maximum over the positions of each normal tile.
    tiles : (n,) array, int64
        Tile that each defect was planted into.
    """

    of_defects: NDArray[np.float64]
    of_tiles: NDArray[np.float64]
    tiles: NDArray[np.int64]

    @property
    def merit(self) -> float:
        """Mean fraction of the defects above the threshold, over thresholds of few false alarms, 0 to 1.

        The thresholds are the maxima of the normal tiles, from the highest to the one above which 63 % of the tiles
        lie: those of 0 to 1 accepted false alarms per tile. This is the partial area under the receiver operating
        characteristic of defects against whole normal tiles, over the width of its range: lower thresholds, which
        nobody accepts, have no part in it, and higher ones are averaged, as a single one would depend on a single tile.

        References
        ----------
        D. K. McClish (1989). Analyzing a Portion of the ROC Curve. Medical Decision Making 9, 190-195.
        https://doi.org/10.1177/0272989X8900900307
        """
        return float(np.average(self._found, weights=self._weights))

    def has_same_defects(self, other: Maxima) -> bool:
        """Return True if both are of the same number of normal tiles, with as many defects in each."""
        return len(self.of_tiles) == len(other.of_tiles) and np.array_equal(self.tiles, other.tiles)

    def versus(self, other: Maxima) -> Difference:
        """Return the difference of two merits, with a standard error that pairs the same defects and tiles.

        The error is that of the jackknife over the tiles: without one tile at a time, with its maximum and its defects.
        It covers the choice of the defects and that of the normal tiles.
        """
        own, its = self._without_one, other._without_one
        known = np.isfinite(own) & np.isfinite(its)
        n = np.count_nonzero(known)
        if n < 3 or n < len(self.of_tiles):
            return Difference(self.merit - other.merit, math.inf)
        differences = own - its
        error = math.sqrt((n - 1) / n * float(((differences - differences.mean()) ** 2).sum()))
        return Difference(self.merit - other.merit, error)

    @property
    def n_found(self) -> int:
        """Number of defects above the threshold that at most one normal tile in ten exceeds."""
        return int(np.count_nonzero(self.of_defects > np.quantile(self.of_tiles, 1 - _RATE, method="higher")))

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(-self.of_tiles, kind="stable")

    @cached_property
    def _above(self) -> NDArray[np.float64]:
        """Return for each defect and normal tile, highest tile first, whether the defect is higher; 0.5 for a tie."""
        against = self.of_tiles[self._order]
        return np.asarray((np.sign(self.of_defects[:, None] - against) + 1) / 2)

    @property
    def _found(self) -> NDArray[np.float64]:
        return np.asarray(self._above.mean(axis=0))

    @property
    def _weights(self) -> NDArray[np.float64]:
        return _weights(len(self.of_tiles))

    @cached_property
    def _without_one(self) -> NDArray[np.float64]:
        """Return the merit without each of the tiles and its defects; NaN where no defect is left."""
        n = len(self.of_tiles)
        weights = _weights(n - 1) if n > 1 else np.zeros(0)
        by_tile = np.stack([self._above[self.tiles == tile].sum(axis=0) for tile in range(n)])
        counts = np.bincount(self.tiles, minlength=n)
        merits = np.full(n, np.nan)
        for at, tile in enumerate(self._order):
            left = counts.sum() - counts[tile]
            if left and n > 1:
                found = np.delete(by_tile.sum(axis=0) - by_tile[tile], at) / left
                merits[tile] = np.average(found, weights=weights)
        return merits


def _weights(n: int) -> NDArray[np.float64]:
    """Return the weights of the maxima of n tiles, highest first: those up to the largest rate count."""
    return np.clip(LARGEST_RATE * n - np.arange(n), 0, 1)
