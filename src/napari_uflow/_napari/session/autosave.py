"""Automatic saving of models: once a minute during a training, against crashes, and at its end."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.errors import Stopped, UFlowError
from napari_uflow.progress import Message, Steps
from napari_uflow.store.files import changed_at, delete, remove_leftovers
from napari_uflow.training.snapshots import leave, new_snapshot, writing_snapshots

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["autosaving"]

_KEPT = 5
_UNFINISHED = "unfinished-"


def autosaving(steps: Steps[TrainedModel], folder: Path, name: str) -> Steps[TrainedModel]:
    """Run a training, and save its snapshots and its model.

    Parameters
    ----------
    steps : generator
        The training; its snapshots are saved, not passed on.
    folder : Path
        An existing folder. The last five models in it are kept, older ones are deleted.
    name : str
        Name of the model.
    """
    remove_leftovers(folder)
    unfinished = new_snapshot(folder)
    is_needed = True
    try:
        model = yield from writing_snapshots(steps, unfinished)
        is_needed = not (yield from _save_steps(folder, name, model))
        return model
    except (Stopped, GeneratorExit):
        is_needed = False
        raise
    finally:
        # A failed training leaves its snapshot, and so does a crash, or a model that cannot be saved.
        if is_needed:
            leave(unfinished)
        else:
            delete(unfinished)


def _save_steps(folder: Path, name: str, model: TrainedModel) -> Steps[bool]:
    """Save a finished model; return whether it was possible."""
    from napari_uflow.store.checkpoint import save_model

    stamp = datetime.datetime.now().strftime("%Y-%m-%d %H%M%S")
    try:
        save_model(folder / f"{_as_file_name(name)} {stamp}.safetensors", model)
    except UFlowError as error:
        yield Message(f"the model could not be saved automatically: {error}", warning=True)
        return False
    _remove_old(folder)
    return True


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w\- ]+", "_", name).strip()[:60] or "model"


def _remove_old(folder: Path) -> None:
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith((_UNFINISHED, "."))]
    for path in sorted(files, key=changed_at)[:-_KEPT]:
        delete(path)
