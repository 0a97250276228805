"""The promise: what a nominal number of false alarms is worth on fields that were held out.

The region test gives a *nominal* NFA: true where the tails fit, the correlation is what it was taken for, and new
pictures vary as the held-out ones do. Conformal risk control turns it into a promise that needs none of that, only
that the next field is exchangeable with the held-out ones. Let N_i(t) be the false alarms per picture of held-out field
i when regions of nominal log10 NFA <= t are reported. With the loss bounded by B, the rule "report below the largest t
with

    (sum_i min(N_i(t), B) + B) / (n + 1) <= epsilon"

has an expected loss of at most epsilon in the next field, whatever the distribution and for every n (an average over
the draw of the held-out fields too), where all fields are scored alike. Here a held-out field is scored with tails of
the other ones and a new field with tails of all of them; with few fields this is an approximation.

For small epsilon B is 1: the promise is then about the probability of any false alarm in a picture. For larger epsilon
B is epsilon times sqrt(n + 1), or 3 if that is more: more false alarms in one picture than that count as so many. The
smallest epsilon that n fields can promise is 1 / (n + 1), and fewer than 3 fields promise nothing. Below it the nominal
law is trusted, and never more than that.

References
----------
Angelopoulos, Bates, Fisch, Lei, Schuster (2022), Conformal risk control, arXiv 2208.02814.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIGHEST", "ConformalOffset", "HeldOutField", "counts_pictures", "fields_needed"]

# The loss of a field is bounded by 1, or by this many times epsilon where that is more; with more fields, by more.
_LEAST_BOUND = 3.0
# Of two fields each is scored with the tails of a single one.
_FEWEST_FIELDS = 3
# A promise holds at its own number, whatever rounding to float32 a map goes through.
_ROUNDING = 1e-6
# Nominal log10 NFA above this is no region at all.
HIGHEST = 3.0
_JUST_BELOW = 1e-9
# Values between two thresholds of the promise keep their order by this much of a decade at most.
_ORDER = 0.002
# log10 of the largest number of false alarms that the promise is worked out for.
_MOST_PROMISED = 2


@dataclass(frozen=True)
class HeldOutField:
    """What the region test says of one held-out field.

    Attributes
    ----------
    name : str
        Name of the field.
    pictures : tuple of tuple of float
        For each picture, in increasing order, the nominal log10 NFA from which it has one, two, three ... reported
        regions (see :func:`~napari_uflow.nfa.segment.count_thresholds`).
    """

    name: str
    pictures: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ConformalOffset:
    """Turns nominal numbers of false alarms into promised ones.

    Attributes
    ----------
    fields : tuple of HeldOutField
        The fields that were held out; none of them may have shaped the tails that its own regions were tested with.
    """

    fields: tuple[HeldOutField, ...] = ()

    @property
    def n_fields(self) -> int:
        """Number of independent fields."""
        return len(self.fields)

    @property
    def smallest_promise(self) -> float:
        """Smallest number of false alarms that this many fields can promise; infinite for fewer than 3 fields."""
        return 1.0 / (self.n_fields + 1) if self.n_fields >= _FEWEST_FIELDS else math.inf

    def threshold(self, false_alarms: float) -> float:
        """Return the nominal log10 NFA up to which regions are reported.

        Parameters
        ----------
        false_alarms : float
            False alarms accepted per picture, above 0.

        Returns
        -------
        float
            At most 3. Where the fields are too few for a promise: log10 of `false_alarms` itself, or as many decades
            below the strictest threshold that they do promise as `false_alarms` is below its number.
        """
        log10_epsilon = math.log10(false_alarms)
        if not self.n_fields:
            return log10_epsilon
        smallest = self.smallest_promise
        if false_alarms >= smallest * (1 - 1e-9):
            return self._certified(false_alarms)
        if not math.isfinite(smallest):
            return min(log10_epsilon, float(self._edges[0]))
        return min(log10_epsilon, self._certified(smallest) + log10_epsilon - math.log10(smallest))

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Thresholds worth a look, (k,), increasing: just below each region of the held-out fields, and the highest."""
        values = np.unique([value for field in self.fields for picture in field.pictures for value in picture])
        return np.append(values - _JUST_BELOW, HIGHEST)

    @cached_property
    def _counts(self) -> NDArray[np.int16]:
        """Regions at or below each of the edges, (k, pictures)."""
        pictures = [picture for field in self.fields for picture in field.pictures]
        counts = np.zeros((len(self._edges), len(pictures)), dtype=np.int16)
        for i, picture in enumerate(pictures):
            counts[:, i] = np.searchsorted(picture, self._edges, side="right")
        return counts

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """Weight of each picture, (pictures,): those of a field weigh 1 together."""
        return np.array([1 / len(field.pictures) for field in self.fields for _ in field.pictures])

    def _loss(self, counts: NDArray[np.int16], bound: float) -> NDArray[np.float64]:
        """Sum over the fields of the mean number of false alarms, each at most `bound`; counts are (..., pictures)."""
        loss: NDArray[np.float64] = np.minimum(counts, bound) @ self._weights
        return loss

    def _certified(self, false_alarms: float) -> float:
        """Largest nominal threshold whose promised number is at most `false_alarms`."""
        bound = _bound(false_alarms, self.n_fields)
        allowed = false_alarms * (1 + 1e-9) * (self.n_fields + 1) - bound
        # The loss never falls with the threshold; the first edge lies below every region.
        low, high = 0, len(self._edges)
        while high - low > 1:
            middle = (low + high) // 2
            if self._loss(self._counts[middle], bound) <= allowed:
                low = middle
            else:
                high = middle
        return float(self._edges[low])

    def promised(self, log10_nfa: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn nominal values into promised ones, so that a threshold on the result keeps its promise.

        Parameters
        ----------
        log10_nfa : (...) array, float
            Nominal log10 NFA.

        Returns
        -------
        (...) array, float64
            log10 of the smallest number of false alarms at which a region of this value is reported: exact where a
            promise is about pictures (see :func:`counts_pictures`), in steps of 0.01 elsewhere (from 1e-6 to 100).
            Values that are reported together keep their order, within 0.002 below that number (0.5 %), and never at or
            below the next smaller one.
        """
        values = np.asarray(log10_nfa, dtype=np.float64)
        if not self.n_fields:
            return values
        nominal, promise = self._curve
        at = np.minimum(np.searchsorted(nominal, values, side="left"), len(nominal) - 1)
        step = np.diff(nominal, prepend=-np.inf)[at]
        room = np.minimum(_ORDER, 0.5 * np.diff(promise, prepend=-np.inf)[at])
        inside = promise[at] - np.minimum(_ROUNDING, room) - room * np.clip((nominal[at] - values) / step, 0.0, 1.0)
        # Far below a decade is a decade; above the highest threshold nothing is ever reported.
        inside = inside + np.minimum(values - nominal[0], 0.0)
        promised: NDArray[np.float64] = np.where(values > nominal[-1], _MOST_PROMISED + values - nominal[-1], inside)
        return promised

    @cached_property
    def _curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nominal thresholds, strictly increasing, and the smallest promise (log10) that each of them keeps."""
        grid = np.round(np.arange(-600, 100 * _MOST_PROMISED + 1) / 100, 2)
        # Where the bound is 1 the promise jumps where another held-out picture gets a false alarm.
        jumps = np.log10((np.unique(self._loss(self._counts, 1.0)) + 1.0) / (self.n_fields + 1))
        promise = np.unique(np.append(grid, jumps[jumps < _MOST_PROMISED]))
        nominal = np.maximum.accumulate([self.threshold(10.0**p) for p in promise])
        nominal, first = np.unique(nominal, return_index=True)
        return nominal, promise[first]

    def observed(self, false_alarms: float) -> float:
        """Return the false alarms per picture on the held-out fields at the promised threshold; NaN without fields."""
        return self._observed_at(self.threshold(false_alarms))

    def nominally_observed(self, false_alarms: float) -> float:
        """Return the same at the nominal threshold, where nothing was promised."""
        return self._observed_at(math.log10(false_alarms))

    def _observed_at(self, log10_t: float) -> float:
        if not self.n_fields:
            return math.nan
        below = [[np.searchsorted(picture, log10_t, side="right") for picture in f.pictures] for f in self.fields]
        return float(np.mean([np.mean(counts) if counts else 0.0 for counts in below]))

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        return [{"name": f.name, "pictures": [list(p) for p in f.pictures]} for f in self.fields]

    @classmethod
    def from_list(cls, fields: Sequence[Mapping[str, Any]]) -> Self:
        """Make an offset from what :meth:`to_list` returned."""
        return cls(tuple(HeldOutField(f["name"], tuple(tuple(p) for p in f["pictures"])) for f in fields))


def fields_needed(false_alarms: float) -> int:
    """Return how many independent held-out fields a promise of so many false alarms per picture needs."""
    return max(_FEWEST_FIELDS, math.ceil(max(1.0, _LEAST_BOUND * false_alarms) / false_alarms - 1 - 1e-9))


def counts_pictures(false_alarms: float, n_fields: int) -> bool:
    """Whether a promise is about the part of pictures with any false alarm, and not about their mean number."""
    return _bound(false_alarms, n_fields) == 1.0


def _bound(false_alarms: float, n_fields: int) -> float:
    return max(1.0, false_alarms * max(_LEAST_BOUND, math.sqrt(n_fields + 1)))
