"""Drift of a model's images: whether they are still like the held-out ones that its guarantee was counted on."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_uflow.detection.guarantee import Caveat
from napari_uflow.detection.result import Detection
from napari_uflow.errors import UFlowError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.nfa.drift import FEWEST_FOR_DRIFT, LOG10_WARNING, DriftTest
from napari_uflow.progress import Message
from napari_uflow.store.drift_log import DriftEntry, DriftLog, drift_log_path
from napari_uflow.training.regions import assign_specimens, matching_specimens, regions_of_training
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["DriftState", "DriftWatch"]

# Side of the central part of an image whose pixels tell it from others.
_KEY_SIDE = 2048
# Known to differ before anything is computed: such images are not compared.
_LEFT_OUT = frozenset({Caveat.TOO_SMALL, Caveat.PIXEL_SIZE})


@dataclass(frozen=True, kw_only=True)
class DriftState:
    """State of the drift test of a model.

    Attributes
    ----------
    n_held_out : int
        Held-out specimens that new ones are compared with; 0 for a model of an earlier version.
    images : tuple of str
        First image of each new specimen, with its date, in the order of the detections, up to a warning.
    log10_evidence : tuple of float
        log10 of the evidence for drift after each of them. At 2 (100 to 1) drift is reported.
    since : str
        Image since which they differ, with its date; "" without a warning.
    n_logged : int
        Images in the log.
    n_of_training : int
        Images that have the names of specimens of the training, and are left out.
    n_skipped : int
        Lines of the log that are damaged or of another program.
    has_conditions : bool
        The model has several conditions, for which drift is not tested.
    """

    n_held_out: int
    images: tuple[str, ...] = ()
    log10_evidence: tuple[float, ...] = ()
    since: str = ""
    n_logged: int = 0
    n_of_training: int = 0
    n_skipped: int = 0
    has_conditions: bool = False

    @property
    def can_test(self) -> bool:
        """True if enough specimens were held out."""
        return self.n_held_out >= FEWEST_FOR_DRIFT

    def sentences(self) -> list[str]:
        """Return the state in sentences with full stops."""
        if self.has_conditions:
            return ["Drift is not tested for a model with several conditions."]
        if not self.n_held_out:
            return ["Drift is not tested: the model has no statistics of held-out images; train it again."]
        if not self.can_test:
            held_out = counted(self.n_held_out, "specimen")
            return [f"Drift is not tested: {held_out} held out, but {FEWEST_FOR_DRIFT} are needed."]
        compared = f"{counted(len(self.images), 'new specimen')} compared with {self.n_held_out} held-out ones"
        if self.since:
            lines = [
                f"Since {self.since}, images are no longer like the held-out ones (evidence "
                f"{10 ** min(self.log10_evidence[-1], 9):.0f} to 1 after {compared}): the guarantee does not apply.",
                "Train again with recent normal images; if the cause is gone, reset the drift log.",
            ]
        elif self.images:
            lines = [f"No drift: {compared}, evidence {10 ** self.log10_evidence[-1]:.2g} to 1 (reported at 100 to 1)."]
        else:
            lines = ["No drift: no new specimen in the drift log."]
        if self.n_of_training:
            lines.append(
                f"{counted(self.n_of_training, 'image')} left out: their names are those of specimens of the training."
            )
        if self.n_skipped:
            lines.append(f"{counted(self.n_skipped, 'line')} of the drift log skipped: damaged, or of another program.")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return {
            "n_held_out_specimens": self.n_held_out,
            "n_new_specimens": len(self.images),
            "n_logged_images": self.n_logged,
            "n_of_training": self.n_of_training,
            "n_skipped_lines": self.n_skipped,
            "log10_evidence": list(self.log10_evidence),
            "log10_evidence_of_warning": LOG10_WARNING,
            "images": list(self.images),
            "has_drifted": bool(self.since),
            "since": self.since or None,
        }


class DriftWatch:
    """Drift log of a model file, and the test of the images in it.

    Parameters
    ----------
    model : TrainedModel
        The model; without calibration, nothing is logged.
    model_path : path-like
        File of the model; the log is beside it.

    Notes
    -----
    Images of one specimen are alike, and count as one: the first of each specimen is compared. An image that is
    detected again, images of the training, and images of another pixel size or too small ones do not count.
    """

    def __init__(self, model: TrainedModel, model_path: str | Path) -> None:
        calibration = model.calibration
        # Images of one condition are unlike those of all together.
        self._has_conditions = calibration is not None and bool(calibration.conditions)
        self._held_out = () if calibration is None or self._has_conditions else calibration.held_out_profiles
        self._record, self._pattern = model.record, model.training.specimen_pattern
        calibrated_on = hashlib.sha256(json.dumps(self._held_out).encode()).hexdigest()[:16]
        self._log = DriftLog(drift_log_path(model_path), calibrated_on, len(self._held_out))
        self._has_told_failure = self._has_told_drift = False
        self._begin()

    def _begin(self) -> None:
        self._test = DriftTest(self._held_out)
        self._entries: list[DriftEntry] = []  # one of each new specimen
        self._keys: set[str] = set()
        self._specimens: set[str] = set()
        self._n_of_training = 0

    @property
    def log_path(self) -> Path:
        """File of the log."""
        return self._log.path

    @property
    def state(self) -> DriftState:
        """Present state, with what other programs have added to the log.

        Raises
        ------
        UFlowError
            If the log cannot be read.
        """
        self._read()
        return self._state()

    def _state(self) -> DriftState:
        return DriftState(
            n_held_out=max(map(len, self._held_out), default=0),
            images=tuple(map(_dated, self._entries)),
            log10_evidence=tuple(self._test.log10_evidence),
            since=self._since,
            n_logged=len(self._keys),
            n_of_training=self._n_of_training,
            n_skipped=self._log.n_skipped,
            has_conditions=self._has_conditions,
        )

    @property
    def _since(self) -> str:
        return _dated(self._entries[self._test.change]) if self._test.has_warned else ""

    def reset(self) -> None:
        """Let the images so far no longer count.

        Raises
        ------
        UFlowError
            If the log cannot be written.
        """
        self._log.reset(_now())
        self._has_told_drift = False

    def observe(
        self, planes: Sequence[Plane], detections: Sequence[Detection]
    ) -> tuple[list[Detection], list[Message]]:
        """Add the planes of an image to the log, and withdraw the guarantee of their detections if images have drifted.

        Parameters
        ----------
        planes : sequence of Plane
            Planes of one image.
        detections : sequence of Detection
            Detection of each.

        Returns
        -------
        (list of Detection, list of Message)
            The detections, and what the user must know: drift, or why the log cannot be written, each once.
        """
        if not self._test.can_test:
            return list(detections), []
        messages: list[Message] = []
        try:
            for entry in self._entries_of(planes, detections):
                self._add(entry)
        except (UFlowError, OSError) as error:  # of the log, or of an image that is gone meanwhile
            if not self._has_told_failure:
                messages.append(Message(f"the drift log is incomplete: {error}", warning=True))
            self._has_told_failure = True
        marked, more = self.withdraw(detections)
        return marked, messages + more

    def withdraw(self, detections: Sequence[Detection]) -> tuple[list[Detection], list[Message]]:
        """Withdraw the guarantee of detections if images have drifted; the log stays as it is.

        Returns
        -------
        (list of Detection, list of Message)
            As :meth:`observe`.
        """
        with suppress(UFlowError):  # told when something is added
            self._read()
        since = self._since
        if not since:
            return list(detections), []
        messages = []
        if not self._has_told_drift:
            text = " ".join(self._state().sentences()[:2]).removesuffix(".")
            messages.append(Message(text[0].lower() + text[1:], warning=True))
            self._has_told_drift = True
        return [_without_guarantee(found, since) for found in detections], messages

    def _add(self, entry: DriftEntry) -> None:
        self._read()
        if entry.key in self._keys:
            return
        try:
            self._log.append(entry)
        except UFlowError:
            self._count(entry)
            raise
        self._read()

    def _read(self) -> None:
        for entry in self._log.read_new():
            if entry is None:
                self._begin()
            else:
                self._count(entry)

    def _count(self, entry: DriftEntry) -> None:
        if entry.key in self._keys:
            return
        self._keys.add(entry.key)
        if entry.is_of_training:
            self._n_of_training += 1
            return
        if entry.specimen in self._specimens:
            return
        self._specimens.add(entry.specimen)
        if self._test.can_test and not self._test.has_warned:
            self._entries.append(entry)
            self._test.add(entry.profile, np.random.default_rng(int(entry.key[:16], 16)))

    def _entries_of(self, planes: Sequence[Plane], detections: Sequence[Detection]) -> list[DriftEntry]:
        compared = [
            (plane, found)
            for plane, found in zip(planes, detections, strict=True)
            if len(found.profile) == len(self._held_out) and _LEFT_OUT.isdisjoint(found.guarantee.caveats)
        ]
        entries: list[DriftEntry] = []
        for plane, found in compared:
            region, key = NormalRegion(plane), _key_of(plane)
            entries.append(
                DriftEntry(
                    time=_now(),
                    image=plane.title,
                    key=key,
                    specimen=self._specimen_of(region) or (entries[0].specimen if entries else key),
                    is_of_training=bool(regions_of_training([region], self._record, self._pattern)),
                    profile=found.profile,
                )
            )
        return entries

    def _specimen_of(self, region: NormalRegion) -> str:
        """Return a checksum of the specimen by the rule of training; "" for an image without a file."""
        if self._pattern:
            (specimen,) = matching_specimens([region], self._pattern)
            if specimen is not None:
                return _checksum(specimen)
        if region.plane.source is None:
            return ""
        folder = Path(region.plane.source).absolute().parent
        return _checksum(f"{folder}\0{assign_specimens([region])[0].specimen}")


def _without_guarantee(found: Detection, since: str) -> Detection:
    caveats = (*(caveat for caveat in found.guarantee.caveats if caveat is not Caveat.DRIFT), Caveat.DRIFT)
    return replace(found, guarantee=replace(found.guarantee, caveats=caveats, drift_since=since))


def _key_of(plane: Plane) -> str:
    """Return a checksum of the pixels of a plane, of its central part if it is large."""
    height, width = (min(size, _KEY_SIDE) for size in plane.shape)
    row, col = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    found = hashlib.sha256(f"{plane.shape} {plane.n_channels}".encode())
    found.update(np.ascontiguousarray(plane.read(Window(row, col, height, width))).data)
    return found.hexdigest()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _dated(entry: DriftEntry) -> str:
    try:
        date = f" ({datetime.datetime.fromisoformat(entry.time).astimezone():%d %b %Y})"
    except (ValueError, OverflowError, OSError):  # written by hand
        date = ""
    return f"'{entry.image}'{date}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
