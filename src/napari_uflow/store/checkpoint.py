"""One file per model: safetensors with a JSON card in its header.

The card is readable without this package: the first 8 bytes of the file are the length of a JSON text that follows
them, and its ``__metadata__`` holds the card under the name ``napari_uflow``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from napari_uflow.errors import UFlowError
from napari_uflow.model.check import check_state
from napari_uflow.model.info import tested_strides
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.store.card import CARD, NOT_AS_WRITTEN, ModelCard, damaged, opened, parse_card
from napari_uflow.store.files import atomic_path
from napari_uflow.store.model_place import check_model_place, other_places

__all__ = ["checksum_of", "load_model", "save_model", "save_somewhere"]

# Before the number of a fold, in the names of its weights.
_FOLD = "fold."
# Backbones larger than this are not copied into the model file; their weights are looked up when it is loaded.
_LARGEST_BACKBONE = 300e6


def save_model(path: str | os.PathLike[str], model: TrainedModel, *, overwrite: bool = False) -> None:
    """Write a model to one file, as a whole or not at all.

    Weights of a backbone below 300 MB are included, so the file works on a computer without internet; those of a larger
    backbone are looked up again when the model is loaded.

    Parameters
    ----------
    path : path-like
        Customary ending: ``.safetensors``. A model file that exists is replaced.
    model : TrainedModel
        The model.
    overwrite : bool
        Replace a file that is not a model, too.

    Raises
    ------
    OverwriteError
        If the file exists and is not a model.
    UFlowError
        If the file cannot be written.
    """
    check_model_place(path, overwrite=overwrite)
    state = {key: value.contiguous() for key, value in model.state.items()}
    for number, fold in enumerate(model.folds, start=1):
        state.update((f"{_FOLD}{number}.{key}", value.contiguous()) for key, value in fold.items())
    size = sum(v.numel() * v.element_size() for k, v in state.items() if k.startswith("backbone."))
    has_backbone = size <= _LARGEST_BACKBONE
    if not has_backbone:
        state = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    card = ModelCard(
        model=model.config,
        training=model.training,
        intensity=model.intensity,
        calibration=None if model.calibration is None else model.calibration.to_dict(),
        history=model.history,
        record=model.record,
        has_backbone=has_backbone,
        sha256_of_weights=checksum_of(state),
    )
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, metadata={CARD: json.dumps(card.to_dict(), allow_nan=False)})
        except SafetensorError as error:  # raised for a full disk, too
            raise UFlowError(f"'{path}' cannot be written ({error}); is the disk full?") from error


def save_somewhere(path: str | os.PathLike[str], model: TrainedModel, *, overwrite: bool = False) -> tuple[Path, str]:
    """Write a model to a file, or to another one rather than lose it.

    Parameters
    ----------
    path, model, overwrite
        As for :func:`save_model`.

    Returns
    -------
    file : Path
        `path`, or a new file beside it, in the current folder, the user's own or the one for temporary files.
    reason : str
        Why `path` could not be written; "" if it was.

    Raises
    ------
    UFlowError
        If none of these can be written; the reason is that of `path`.
    """
    try:
        save_model(path, model, overwrite=overwrite)
    except UFlowError as error:
        for other in other_places(path):
            with suppress(UFlowError):
                save_model(other, model)
                return other, str(error)
        raise
    return Path(path), ""


def load_model(path: str | os.PathLike[str]) -> TrainedModel:
    """Read a model file. Nothing in it is executed.

    The weights are compared with their checksum and with the configuration; all of them must be finite.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not a model of this package, is damaged or altered, or has a format newer
        than this version of the package.
    """
    path = Path(path)
    with opened(path, "pt" if _is_text(path) else "np") as file:
        card = parse_card(path, file.metadata())
        state = {key: torch.as_tensor(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    try:
        found = dict(state)
        folds = _taken_folds(found)
        if folds and len(folds) != len(card.record.folds) - 1:
            raise ValueError("its networks are not as many as its groups of specimens")
        check_state(card.model, card.intensity.n_channels, found)
        own = {key: value for key, value in found.items() if not key.startswith("backbone.")}
        for fold in folds:
            check_state(card.model, card.intensity.n_channels, own | fold)
        if card.sha256_of_weights not in (None, checksum_of(state)):
            raise ValueError("its weights are not those that were saved (their checksum is another)")
        calibration = None if card.calibration is None else Calibration.from_dict(card.calibration)
        if calibration is not None and calibration.strides != tested_strides(card.model):
            raise ValueError("its calibration does not belong to its configuration")
    except NOT_AS_WRITTEN as error:
        raise damaged(path, error) from error
    return TrainedModel(
        config=card.model,
        training=card.training,
        intensity=card.intensity,
        state=found,
        calibration=calibration,
        history=card.history,
        record=card.record,
        folds=folds,
    )


def _taken_folds(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """Take the weights of the folds out of a state, and return those of each."""
    folds: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in state if name.startswith(_FOLD)]:
        number, key = name.removeprefix(_FOLD).split(".", 1)
        folds.setdefault(int(number), {})[key] = state.pop(name)
    if sorted(folds) != list(range(1, len(folds) + 1)):
        raise ValueError("a network of its groups of specimens is missing")
    return tuple(folds[number] for number in sorted(folds))


def _is_text(path: Path) -> bool:
    """Return False for a path that is not UTF-8, which torch opens no file at."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def checksum_of(state: Mapping[str, Tensor]) -> str:
    """Return the checksum of names, types, shapes and values of tensors, hexadecimal."""
    found = hashlib.sha256()
    for name, values in sorted(state.items()):
        found.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        found.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
