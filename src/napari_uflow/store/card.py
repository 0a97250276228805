"""The card of a model file: the description of a model in the JSON header, without its weights and without torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from safetensors import SafetensorError, safe_open

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ModelFileError
from napari_uflow.image.channels import MAX_CHANNELS
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.model.info import has_joint_levels
from napari_uflow.model.record import OutcomeKind, TrainingRecord
from napari_uflow.progress import TrainingPoint
from napari_uflow.store.plain import from_plain

__all__ = ["CARD", "FORMAT", "NOT_AS_WRITTEN", "ModelCard", "damaged", "opened", "parse_card", "read_card"]

FORMAT = 5
"""Number of the format that is written; files with a lower number are upgraded when read, higher ones refused."""

CARD = "napari_uflow"
"""Name of the card among the metadata of a safetensors file."""

NOT_AS_WRITTEN = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)
"""Raised for an entry of a card that is missing, or that has another type or value than any that is written."""

# Entries with the checksums of the other ones and of the tensors. Files of format 4 have both or, the first ones, none.
_CARD_SUM, _WEIGHTS_SUM = "sha256_of_card", "sha256_of_weights"
_FIRST_WITH_SUMS, _FIRST_WITHOUT_EXCEPTION = 4, 5

# Names and values of format 1 that format 2 calls otherwise.
_RENAMED_IN_MAPS = {"n_fields": "n_specimens", "median_spread": "median_sd"}
_RENAMED_TRAINING = {"field_pattern": "specimen_pattern", "views": "augmentations"}
_RENAMED_BORDERS = {"keep": "reflect", "hold": "replicate"}
_RENAMED_IN_RECORD = {
    "n_pictures": "n_images",
    "pictures": "image_names",
    "fields": "specimens",
    "holdout_fields": "holdout_specimens",
    "n_taught": "n_marked_normal",
}
# Format 1 told the outcome in a sentence; the number is the step.
_OUTCOMES_OF_FORMAT_1 = (
    (r"done", OutcomeKind.DONE),
    (r"done: no better held-out loss after step (\d+)", OutcomeKind.CONVERGED),
    (r"done: .*", OutcomeKind.NOTHING_LEARNED),
    (r"stopped at step (\d+)", OutcomeKind.STOPPED),
    (r"stopped: .*", OutcomeKind.NOT_FINITE),
    (r"interrupted after step (\d+)", OutcomeKind.INTERRUPTED),
)
# Parameters of every model before format 3.
_BEFORE_FORMAT_3 = {"levels": "pyramid", "contrast": 1.0, "magnification": 1.0, "octaves": 1}
# First bytes of files that run programs when they are opened.
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """The description of a model.

    Attributes
    ----------
    format : int
        Number of the format of its file.
    model : ModelConfig
        Parts of the model.
    training : TrainingConfig
        Parameters of its training.
    intensity : IntensityRange
        Brightness range of the normal pixels, one pair per channel.
    calibration : mapping or None
        Values for :meth:`~napari_uflow.nfa.calibrated.Calibration.from_dict`; None without a calibration.
    history : tuple of mapping
        Losses, the values of a :class:`~napari_uflow.progress.TrainingPoint` per check.
    record : TrainingRecord
        Origin of the model.
    has_backbone : bool
        The file holds the weights of the backbone.
    sha256_of_weights : str or None
        Checksum of the tensors, hexadecimal; None in a file of a version that did not keep it.
    """

    format: int = FORMAT
    model: ModelConfig
    training: TrainingConfig
    intensity: IntensityRange
    calibration: Mapping[str, Any] | None
    history: tuple[Mapping[str, Any], ...]
    record: TrainingRecord
    has_backbone: bool
    sha256_of_weights: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, as the current format has them; None for NaN and infinities."""
        outcome = {"kind": self.record.outcome.kind.value, "step": self.record.outcome.step}
        values: dict[str, Any] = _finite(
            {
                "format": FORMAT,
                "model": self.model.to_dict(),
                "training": self.training.to_dict(),
                "intensity": self.intensity.to_dict(),
                "calibration": self.calibration,
                "history": self.history,
                "record": asdict(self.record) | {"outcome": outcome},
                "has_backbone": self.has_backbone,
                _WEIGHTS_SUM: self.sha256_of_weights,
            }
        )
        return {**values, _CARD_SUM: _sum_of_card(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a card from the values of a file of this format or an older one.

        Raises
        ------
        LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError
            If an entry is missing, or has another type or value than any that is written.
        """
        number = from_plain(int, values["format"])
        if number < 1:
            raise ValueError(f"there is no format {number}")
        if number < 2:
            values = _upgraded(values)
        if number < 3:
            values = {**values, "model": {**_BEFORE_FORMAT_3, **values["model"]}}
            values["calibration"] = _with_median_subtracted(values["calibration"])
        points = [{k: math.nan if v is None else v for k, v in point.items()} for point in values["history"]]
        intensity = IntensityRange.from_dict(values["intensity"])
        if intensity.n_channels > MAX_CHANNELS:
            raise ValueError(f"its images have {intensity.n_channels} channels")
        return cls(
            format=number,
            model=ModelConfig.from_dict(values["model"]),
            training=TrainingConfig.from_dict(values["training"]),
            intensity=intensity,
            calibration=from_plain(Mapping[str, Any] | None, values["calibration"]),
            history=tuple(asdict(from_plain(TrainingPoint, point)) for point in points),
            record=_record(values["record"]),
            has_backbone=from_plain(bool, values["has_backbone"]),
            sha256_of_weights=from_plain(str | None, values.get(_WEIGHTS_SUM)),
        )


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the description of a model from its file, without the weights.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, or its format is newer than this version.
    """
    path = Path(path)
    with opened(path, "np") as file:
        return parse_card(path, file.metadata())


@contextmanager
def opened(path: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """Open a safetensors file; nothing in it is executed.

    Parameters
    ----------
    path : Path
        The file.
    framework : {"np", "pt"}
        Kind of its tensors: NumPy arrays, without torch, or torch tensors.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a safetensors file.
    """
    if os.path.isdir(path):
        models = sorted(place.name for place in path.glob("*.safetensors"))
        example = f", such as '{models[0]}'" if models else ""
        raise ModelFileError(f"'{path}' is a folder; give the model file in it{example}")
    if not os.path.isfile(path):  # False for a name that is too long, too
        raise ModelFileError(f"there is no model file '{path}'")
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        # Only now: the length that a safetensors file begins with may look like the beginning of a pickle.
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise ModelFileError(
                f"'{path}' is a pickle or a zip archive, which can run programs when it is opened; models of "
                f"napari-uflow are safetensors files"
            ) from error
        raise ModelFileError(f"'{path}' is not a model of napari-uflow, or it is damaged ({error})") from error


def parse_card(path: Path, metadata: Mapping[str, str] | None) -> ModelCard:
    """Return the card among the metadata of a safetensors file.

    Parameters
    ----------
    path : Path
        The file, for messages.
    metadata : mapping of str to str, or None
        Its metadata.

    Raises
    ------
    ModelFileError
        If it is not a model of this package, its format is newer than this version, or a development version made it.
    """
    text = (metadata or {}).get(CARD)
    if text is None:
        raise ModelFileError(f"'{path}' is a safetensors file, but not a model of napari-uflow")
    try:
        values = json.loads(text)
        number = int(values["format"])
    except NOT_AS_WRITTEN as error:
        raise ModelFileError(f"'{path}' is damaged: its description cannot be read") from error
    if number > FORMAT:
        raise ModelFileError(
            f"'{path}' has format {number}, but this version of napari-uflow knows formats up to {FORMAT}: "
            f"update with pip install --upgrade napari-uflow"
        )
    try:
        card = ModelCard.from_dict(values)
        _check_sums(number, values)
    except NOT_AS_WRITTEN as error:
        raise damaged(path, error) from error
    if card.format == 3 and has_joint_levels(card.model):
        raise ModelFileError(
            f"'{path}' was made by a development version of napari-uflow, whose joint features were others: train it "
            f"again"
        )
    return card


def damaged(path: Path, error: Exception) -> ModelFileError:
    """Return the error for a file with an entry that is not as it was written."""
    return ModelFileError(f"'{path}' is damaged or was changed by hand: {error}")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _record(values: Mapping[str, Any]) -> TrainingRecord:
    """Make a record from plain values; those that are missing keep their defaults."""
    record: TrainingRecord = from_plain(TrainingRecord, values)
    for size in (record.pixel_size, record.pixel_size_range):
        if size is not None and min(size) <= 0:
            raise ValueError(f"a pixel size is not above 0: {size}")
    return record


def _check_sums(number: int, values: Mapping[str, Any]) -> None:
    """Raise ValueError if the card of a file of this format is another than was saved, or lacks a checksum."""
    found = values.get(_CARD_SUM)
    if number >= _FIRST_WITHOUT_EXCEPTION and None in (found, values.get(_WEIGHTS_SUM)):
        raise ValueError("its checksum is missing")
    if number >= _FIRST_WITH_SUMS and found not in (None, _sum_of_card(values)):
        raise ValueError("its description is not the one that was saved (its checksum is another)")


def _sum_of_card(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the entries that a model is used with."""
    kept = {name: values.get(name) for name in ("model", "training", "intensity", "calibration", "record")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _upgraded(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file of format 1 as format 2 has them."""
    model = dict(card["model"])
    model["border"] = _RENAMED_BORDERS.get(model.get("border", ""), model.get("border", "auto"))
    calibration = card["calibration"]
    if calibration is not None:
        calibration = _renamed(calibration, {"fields": "specimens"})
        calibration["specimens"] = [_renamed(item, {"pictures": "images"}) for item in calibration["specimens"]]
        calibration["maps"] = [_renamed(item, _RENAMED_IN_MAPS) for item in calibration["maps"]]
    return {
        **card,
        "model": model,
        "training": _renamed(card["training"], _RENAMED_TRAINING),
        "calibration": calibration,
        "record": _upgraded_record(card["provenance"]),
    }


def _with_median_subtracted(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Say of the maps of a file before format 3 what all of them had in common."""
    if calibration is None:
        return None
    return {**calibration, "maps": [{**item, "subtracts_median": True} for item in calibration["maps"]]}


def _upgraded_record(provenance: Mapping[str, Any]) -> dict[str, Any]:
    record = _renamed(provenance, _RENAMED_IN_RECORD)
    text = record.pop("outcome", "done")
    for pattern, kind in _OUTCOMES_OF_FORMAT_1:
        found = re.fullmatch(pattern, text)
        if found is not None:
            record["outcome"] = {"kind": kind.value, "step": int(found[1]) if found.groups() else None}
            break
    else:
        raise ValueError(f"unknown outcome {text!r}")
    first_training = record.get("first_training")
    record["first_training"] = None if first_training is None else _renamed(first_training, _RENAMED_TRAINING)
    record["resumed_from"] = _upgraded_earlier(record.pop("started_from", None))
    return record


def _upgraded_earlier(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    earlier = _upgraded_earlier(values.get("started_from"))
    return {"date": values.get("date"), "n_steps": values["steps"], "resumed_from": earlier}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in values.items()}
