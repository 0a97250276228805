"""One file per model: safetensors with a JSON card in its header.

The card is readable without this package: the first 8 bytes of the file are the length of a JSON text that follows
them, and its ``__metadata__`` holds the card under the name ``napari_uflow``.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ModelFileError, UFlowError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.model.record import EarlierTraining, OutcomeKind, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.store.files import atomic_path

__all__ = ["FORMAT", "load_model", "read_card", "record_from", "save_model"]

FORMAT = 2
"""Number of the format that is written; files with a lower number are upgraded when read, higher ones refused."""

_CARD = "napari_uflow"
_ENTRIES = {"format", "model", "training", "intensity", "calibration", "history", "record", "has_backbone"}
# Backbones larger than this are not copied into the model file; their weights are looked up when it is loaded.
_LARGEST_BACKBONE = 300e6
# Names and values of format 1 that format 2 calls otherwise.
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
# Raised for an entry of a card that is missing or has another type or value than one that was written.
_NOT_AS_WRITTEN = (LookupError, TypeError, AttributeError, ValueError, ConfigError)
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")


def save_model(path: str | os.PathLike[str], model: TrainedModel) -> None:
    """Write a model to one file, as a whole or not at all.

    The weights of the backbone go along where they take less than 300 MB, so the file works on a computer without
    internet; those of a larger backbone must be found again when the model is loaded.

    Parameters
    ----------
    path : path-like
        Customary ending: ``.safetensors``. A file that exists is replaced.
    model : TrainedModel
        The model.

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    state = {key: value.contiguous() for key, value in model.state.items()}
    size = sum(v.numel() * v.element_size() for k, v in state.items() if k.startswith("backbone."))
    has_backbone = size <= _LARGEST_BACKBONE
    if not has_backbone:
        state = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    card = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "training": model.training.to_dict(),
        "intensity": model.intensity.to_dict(),
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        "history": list(model.history),
        "record": _record_values(model.record),
        "has_backbone": has_backbone,
    }
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, metadata={_CARD: json.dumps(_finite(card), allow_nan=False)})
        except SafetensorError as error:  # what its writer makes of a full disk
            raise UFlowError(f"'{path}' cannot be written ({error}); is the disk full?") from error


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a model file says of its model, without its weights.

    Returns
    -------
    dict
        format, model, training, intensity, calibration, history, record, has_backbone.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, or its format is newer than this version.
    """
    return _open(Path(path))[0]


def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a model file. Nothing in it is executed.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, is damaged, or has a format newer than this
        version of the package.
    """
    path = Path(path)
    card, state = _open(path, weights=True)
    try:
        history = tuple({k: float("nan") if v is None else v for k, v in point.items()} for point in card["history"])
        return TrainedModel(
            ModelConfig.from_dict(card["model"]),
            TrainingConfig.from_dict(card["training"]),
            IntensityRange.from_dict(card["intensity"]),
            state,
            None if card["calibration"] is None else Calibration.from_dict(card["calibration"]),
            history,
            record_from(card["record"]),
        )
    except _NOT_AS_WRITTEN as error:
        raise ModelFileError(f"'{path}' is damaged or was changed by hand: {error}") from error


def record_from(values: Mapping[str, Any]) -> TrainingRecord:
    """Make a record from the `record` entry of a card; entries that are missing keep their defaults.

    Raises
    ------
    KeyError, TypeError, ValueError
        If an entry has another type or value than :func:`save_model` writes.
    """
    given = {field.name: values[field.name] for field in fields(TrainingRecord) if field.name in values}
    for name in ("image_names", "specimens", "holdout_specimens"):
        given[name] = tuple(map(str, given.get(name, ())))
    if given.get("pixel_size") is not None:
        height, width = map(float, given["pixel_size"])
        given["pixel_size"] = (height, width)
    if "outcome" in given:
        given["outcome"] = TrainingOutcome(OutcomeKind(given["outcome"]["kind"]), given["outcome"]["step"])
    if given.get("first_training") is not None:
        given["first_training"] = TrainingConfig.from_dict(given["first_training"])
    given["resumed_from"] = _earlier_from(given.get("resumed_from"))
    return TrainingRecord(**given)


def _earlier_from(values: Mapping[str, Any] | None) -> EarlierTraining | None:
    if values is None:
        return None
    return EarlierTraining(values["date"], int(values["n_steps"]), _earlier_from(values["resumed_from"]))


def _record_values(record: TrainingRecord) -> dict[str, Any]:
    """Return plain values for JSON."""
    values = asdict(record)
    return values | {"outcome": {"kind": record.outcome.kind.value, "step": record.outcome.step}}


def _upgraded(card: dict[str, Any]) -> dict[str, Any]:
    """Return the card of a file of format 1 as format 2 has it."""
    card = dict(card)
    model = dict(card["model"])
    model["border"] = _RENAMED_BORDERS.get(model.get("border", ""), model.get("border", "auto"))
    calibration = card["calibration"]
    if calibration is not None:
        calibration = _renamed(calibration, {"fields": "specimens"})
        calibration["specimens"] = [_renamed(item, {"pictures": "images"}) for item in calibration["specimens"]]
        calibration["maps"] = [_renamed(item, {"n_fields": "n_specimens"}) for item in calibration["maps"]]
    return card | {
        "model": model,
        "training": _renamed(card["training"], _RENAMED_TRAINING),
        "calibration": calibration,
        "record": _upgraded_record(card.pop("provenance")),
    }


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


def _open(path: Path, *, weights: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelFileError(f"there is no model file '{path}'")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_CARD)
            state = {key: file.get_tensor(key) for key in file.keys()} if weights and text else {}  # noqa: SIM118
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
    if text is None:
        raise ModelFileError(f"'{path}' is a safetensors file, but not a model of napari-uflow")
    try:
        card: dict[str, Any] = json.loads(text)
        number = int(card["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"'{path}' is damaged: its description cannot be read") from error
    if number > FORMAT:
        raise ModelFileError(
            f"'{path}' has format {number}, but this version of napari-uflow knows formats up to {FORMAT}: "
            f"update with pip install --upgrade napari-uflow"
        )
    if number < FORMAT:
        try:
            card = _upgraded(card)
        except _NOT_AS_WRITTEN as error:
            raise ModelFileError(f"'{path}' is damaged or was changed by hand: {error}") from error
    missing = sorted(_ENTRIES - set(card))
    if missing:
        raise ModelFileError(f"'{path}' is damaged or was changed by hand: it lacks the entry {missing[0]!r}")
    return card, state
