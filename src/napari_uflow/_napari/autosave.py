"""Models that are saved by themselves: while a training runs, so that a crash loses a minute; and when it is done."""

from __future__ import annotations

import datetime
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.errors import UFlowError
from napari_uflow.progress import Message, Snapshot, Steps

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["autosaving", "discard", "left_behind"]

logger = logging.getLogger(__name__)

_KEPT = 5
_UNFINISHED = "unfinished-"


def autosaving(steps: Steps[TrainedModel], folder: Path, name: str) -> Steps[TrainedModel]:
    """Run a training and save its model as it goes, and at its end.

    Parameters
    ----------
    steps : generator
        The training; its snapshots are written, not passed on.
    folder : Path
        An existing folder. The last models in it are kept, older ones are removed.
    name : str
        What the model is called.
    """
    unfinished = folder / f"{_UNFINISHED}{os.getpid()}.safetensors"
    try:
        event = next(steps)
        while True:
            answer = None
            if isinstance(event, Snapshot):
                yield from _written(unfinished, event.result)
            else:
                answer = yield event
            event = steps.send(answer)
    except StopIteration as stop:
        model: TrainedModel = stop.value
        stamp = datetime.datetime.now().strftime("%Y-%m-%d %H%M%S")
        yield from _written(folder / f"{_as_file_name(name)} {stamp}.safetensors", model)
        _remove_old(folder)
        return model
    finally:
        # Only a program that dies leaves it behind.
        unfinished.unlink(missing_ok=True)


def _written(path: Path, model: TrainedModel) -> Steps[None]:
    from napari_uflow.store import save_model

    try:
        save_model(path, model)
    except UFlowError as error:  # a full disk must not end a training
        yield Message(f"the model could not be saved by itself: {error}", warning=True)


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w\- ]+", "_", name).strip()[:60] or "model"


def _remove_old(folder: Path) -> None:
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith((_UNFINISHED, "."))]
    for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        path.unlink(missing_ok=True)


def left_behind(folder: Path) -> Path | None:
    """Return the newest model of a training whose program died, or None."""
    import psutil

    files = []
    for path in folder.glob(f"{_UNFINISHED}*.safetensors"):
        number = path.stem.removeprefix(_UNFINISHED)
        if number.isdigit() and int(number) != os.getpid() and not psutil.pid_exists(int(number)):
            files.append(path)
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def discard(path: Path) -> None:
    """Remove a model that was left behind."""
    path.unlink(missing_ok=True)
