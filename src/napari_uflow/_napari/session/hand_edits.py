"""Pixels of a result that were painted or erased by hand; they are kept when the regions are found anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_uflow.detection.result import Detection

__all__ = ["HandEdits", "Numbering"]

Index = tuple[int, ...]
_ERASED = 0


@dataclass(frozen=True, eq=False)
class HandEdits:
    """Painted and erased pixels of a result, independent of the numbers of its regions.

    Attributes
    ----------
    pixels : mapping of index to (n,) array, int64
        For the planes that were edited: row-major positions of the edited pixels, ascending.
    keys : mapping of index to (n,) array, int64
        Key of each of these pixels: 0 for an erased one, otherwise that of its region, 1 or more.
    anchors : mapping of key to (index, int)
        For each key whose pixels extend a detected region: plane and most anomalous pixel of that region, by which it
        is found again whatever its number. Other keys are regions of their own.
    """

    pixels: Mapping[Index, NDArray[np.int64]] = field(default_factory=dict)
    keys: Mapping[Index, NDArray[np.int64]] = field(default_factory=dict)
    anchors: Mapping[int, tuple[Index, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pixels)

    def of(self, index: Index, size: int) -> NDArray[np.int64]:
        """Return the key of each of the `size` pixels of a plane, -1 for one that was not edited."""
        keys = np.full(size, -1, dtype=np.int64)
        if index in self.pixels:
            keys[self.pixels[index]] = self.keys[index]
        return keys

    def with_plane(self, index: Index, keys: NDArray[np.int64]) -> HandEdits:
        """Return the edits with other keys in a plane, in the form of :meth:`of`."""
        pixels = {at: values for at, values in self.pixels.items() if at != index}
        kept = {at: values for at, values in self.keys.items() if at != index}
        edited = np.flatnonzero(keys >= 0)
        if len(edited):
            pixels[index], kept[index] = edited, keys[edited]
        return replace(self, pixels=pixels, keys=kept)

    def largest_key(self) -> int:
        """Return the largest key, 0 without one."""
        return max((0, *self.anchors, *(int(keys.max()) for keys in self.keys.values())))


class Numbering:
    """Numbers of the detected regions and, after them, of those painted by hand.

    Parameters
    ----------
    planes : sequence of (tuple of int, Detection)
        Index and detection of each plane, with labels from 1 in each.
    edits : HandEdits
        Edits whose keys get numbers.
    """

    def __init__(self, planes: Sequence[tuple[Index, Detection]], edits: HandEdits) -> None:
        self._planes = dict(planes)
        self._edits = edits
        self._firsts: dict[Index, int] = {}
        self.n_detected = 0
        for index, found in planes:
            self._firsts[index] = self.n_detected
            self.n_detected += len(found.regions)
        numbers = {key: int(self.detected_at(at, np.array([i]))[0]) for key, (at, i) in edits.anchors.items()}
        self._numbers = {key: number for key, number in numbers.items() if number}

    def detected_at(self, index: Index, pixels: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the number of the detected region at each pixel of a plane, 0 where there is none."""
        labels = self._planes[index].labels.ravel()[pixels]
        return np.where(labels > 0, labels + self._firsts[index], 0).astype(np.int32)

    def detected(self, index: Index) -> NDArray[np.int32]:
        """Return the numbers of the detected regions of a plane."""
        return self._planes[index].numbered_after(self._firsts[index]).labels

    def numbers_of(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the number of each key: that of the detected region that it extends, or one after all of them."""
        unique, inverse = np.unique(keys, return_inverse=True)
        numbers = [0 if key == _ERASED else self._numbers.get(key, self.n_detected + key) for key in unique.tolist()]
        return np.array(numbers, dtype=np.int32)[inverse]

    def shown(self, index: Index) -> NDArray[np.int32]:
        """Return the numbers of a plane, the edits included."""
        labels = self.detected(index)
        if index not in self._edits.pixels:
            return labels
        labels = labels.copy()
        labels.flat[self._edits.pixels[index]] = self.numbers_of(self._edits.keys[index])
        return labels

    def read(self, labels: Mapping[Index, NDArray[np.int32]]) -> HandEdits:
        """Return the edits after further ones, from the numbers that planes have now.

        A pixel that has its detected number again is no longer edited.
        """
        changed = {index: now for index, now in labels.items() if not np.array_equal(now, self.shown(index))}
        edits = self._edits
        if not changed:
            return edits
        largest = max(edits.largest_key(), *(int(now.max()) - self.n_detected for now in changed.values()))
        keys = _NewKeys(self, dict(edits.anchors), largest)
        for index, now in changed.items():
            of_plane = edits.of(index, now.size)
            flat = now.ravel()
            is_changed = flat != self.shown(index).ravel()
            is_restored = is_changed & (flat == self.detected(index).ravel())
            of_plane[is_restored] = -1
            is_new = is_changed & ~is_restored
            of_plane[is_new] = keys.of(index, flat[is_new])
            edits = edits.with_plane(index, of_plane)
        return replace(edits, anchors=keys.anchors)

    def translated(
        self, to: Numbering, index: Index, pixels: NDArray[np.int64], numbers: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Return what numbers of pixels of a plane are in another numbering: a detected number stays the detected one.

        Parameters
        ----------
        to : Numbering
            The other numbering of the same planes.
        index : tuple of int
            The plane.
        pixels : (n,) array, int64
            Row-major positions.
        numbers : (n,) array, int32
            Numbers of these pixels.
        """
        is_detected = numbers == self.detected_at(index, pixels)
        keys = _NewKeys(self, dict(self._edits.anchors), self._edits.largest_key()).of(index, numbers)
        return np.where(is_detected, to.detected_at(index, pixels), to.numbers_of(keys)).astype(np.int32)

    def key_of(self, index: Index, number: int) -> int | None:
        """Return the key that a number stands for in a plane; None if it is that of a detected region without edits."""
        if number == 0:
            return _ERASED
        if number > self.n_detected:
            return number - self.n_detected
        return next((k for k, n in self._numbers.items() if n == number and self._edits.anchors[k][0] == index), None)

    def anchor_of(self, index: Index, number: int) -> tuple[Index, int] | None:
        """Return plane and most anomalous pixel of a detected region; None if it is not one of this plane."""
        found, label = self._planes[index], number - self._firsts[index]
        if not 0 < label <= len(found.regions):
            return None
        inside = np.flatnonzero(found.labels == label)
        return index, int(inside[np.argmin(found.log10_nfa.ravel()[inside])])


class _NewKeys:
    """Keys of numbers that were painted, among them new ones."""

    def __init__(self, numbering: Numbering, anchors: dict[int, tuple[Index, int]], largest: int) -> None:
        self.anchors = anchors
        self._numbering = numbering
        self._largest = largest

    def of(self, index: Index, numbers: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the key of each number in a plane."""
        unique, inverse = np.unique(numbers, return_inverse=True)
        return np.array([self._of_one(index, number) for number in unique.tolist()], dtype=np.int64)[inverse]

    def _of_one(self, index: Index, number: int) -> int:
        key = self._numbering.key_of(index, number)
        if key is not None:
            return key
        self._largest += 1
        anchor = self._numbering.anchor_of(index, number)
        if anchor is not None:  # a number of another plane makes a region of its own
            self.anchors[self._largest] = anchor
        return self._largest
