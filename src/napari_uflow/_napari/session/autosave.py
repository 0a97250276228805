"""Automatic saving of models: once a minute during a training, against crashes, and at its end."""

from __future__ import annotations

import datetime
import logging
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.errors import Stopped, UFlowError
from napari_uflow.progress import Message, Snapshot, Steps

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["autosaving", "describe", "discard", "left_behind"]

logger = logging.getLogger(__name__)

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
    unfinished = folder / f"{_UNFINISHED}{os.getpid()}-{_began(os.getpid())}-{uuid.uuid4().hex[:8]}.safetensors"
    has_failed = True
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
        has_failed = False
        model: TrainedModel = stop.value
        stamp = datetime.datetime.now().strftime("%Y-%m-%d %H%M%S")
        yield from _written(folder / f"{_as_file_name(name)} {stamp}.safetensors", model)
        _remove_old(folder)
        return model
    except (Stopped, GeneratorExit):
        has_failed = False
        raise
    finally:
        # A failed training leaves its snapshot, and so does a crash.
        if has_failed:
            _rename(unfinished, unfinished.with_name(f"{_UNFINISHED}0-0-{uuid.uuid4().hex[:8]}.safetensors"))
        else:
            _unlink(unfinished)


def _written(path: Path, model: TrainedModel) -> Steps[None]:
    from napari_uflow.store.checkpoint import save_model

    try:
        save_model(path, model)
    except UFlowError as error:  # a full disk must not end a training
        yield Message(f"the model could not be saved automatically: {error}", warning=True)


def _as_file_name(name: str) -> str:
    return re.sub(r"[^\w\- ]+", "_", name).strip()[:60] or "model"


def _remove_old(folder: Path) -> None:
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith((_UNFINISHED, "."))]
    for path in sorted(files, key=_changed)[:-_KEPT]:
        _unlink(path)


def _unlink(path: Path) -> None:
    """Delete a file; one that another program holds open stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        logger.warning("could not delete %s", path)


def _rename(path: Path, new: Path) -> None:
    try:
        if path.exists():
            path.rename(new)
    except OSError:
        logger.warning("could not rename %s", path)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def _began(pid: int) -> int:
    """Return the start time of a process, in seconds; 0 if there is none, or access is denied."""
    import psutil

    try:
        return int(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0


def left_behind(folder: Path) -> Path | None:
    """Return the newest model of an interrupted training, or None."""
    return max(_dead(folder), key=_changed, default=None)


def _dead(folder: Path) -> list[Path]:
    """Return the unfinished models whose process has ended, or whose training failed."""
    files = []
    for path in folder.glob(f"{_UNFINISHED}*.safetensors"):
        pid, began, *_ = [*path.stem.removeprefix(_UNFINISHED).split("-"), "0"]
        # Process ids are reused after a restart; id and start time together are not.
        if pid.isdigit() and began.isdigit():
            now = 0 if int(pid) == 0 else _began(int(pid))
            if now == 0 or now != int(began):
                files.append(path)
    return files


def describe(path: Path) -> str:
    """Return images, backbone, step and date of an unfinished model; "" if they cannot be read.

    Only the header of the file is read, without torch.
    """
    from napari_uflow.store.card import read_card

    try:
        card = read_card(path)
    except (UFlowError, OSError):
        return ""
    names = card.record.specimens
    if not names or not card.history:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    when = datetime.datetime.fromtimestamp(_changed(path)).strftime("%Y-%m-%d %H:%M")
    step = int(card.history[-1]["step"])
    return f"'{names[0]}'{more}, {card.model.backbone}, step {step} of {card.training.steps}, {when}"


def discard(path: Path) -> None:
    """Delete the model of an interrupted training, and all older ones."""
    time = _changed(path)
    for other in [*_dead(path.parent), path]:
        if _changed(other) <= time:
            _unlink(other)
