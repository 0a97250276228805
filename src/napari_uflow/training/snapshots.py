"""Snapshots: the best model of a training so far, in a file that outlives a killed process."""

from __future__ import annotations

import datetime
import logging
import os
import re
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.errors import UFlowError
from napari_uflow.progress import Message, Snapshot, Steps
from napari_uflow.store.card import read_card
from napari_uflow.store.files import changed_at, delete
from napari_uflow.system.owner import TAG, has_ended, is_of_this_computer, nobody, own_tag

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["describe", "discard", "interrupted", "leave", "new_snapshot", "prefix_of", "writing_snapshots"]

logger = logging.getLogger(__name__)

_UNFINISHED = re.compile(rf"(?P<prefix>.*)unfinished-(?P<tag>{TAG})-[0-9a-f]{{8}}\.safetensors", re.DOTALL)
# Bytes of a name that leave the others room in the 255 of most file systems.
_LONGEST_NAME = 160


def prefix_of(output: Path) -> str:
    """Return the beginning of the names of the snapshots of trainings of a model file.

    Parameters
    ----------
    output : Path
        The model file. Of a long name, the beginning and a checksum are used.
    """
    name = os.fsencode(output.name)
    if len(name) <= _LONGEST_NAME:
        return f"{output.name}."
    return f"{output.name[: _LONGEST_NAME // 4]}-{zlib.crc32(name):08x}."


def new_snapshot(folder: Path, prefix: str = "") -> Path:
    """Return an unused name for the snapshot of a training of this process.

    Parameters
    ----------
    folder : Path
        Folder of the file.
    prefix : str
        Beginning of its name, which tells the trainings in one folder apart.
    """
    return folder / f"{prefix}unfinished-{own_tag()}-{uuid.uuid4().hex[:8]}.safetensors"


def writing_snapshots(steps: Steps[TrainedModel], path: Path) -> Steps[TrainedModel]:
    """Run a training and write its snapshots, which are not passed on, to a file.

    The file stays when the training ends, however it ends.

    Parameters
    ----------
    steps : generator
        The training.
    path : Path
        The file, see :func:`new_snapshot`.
    """
    from napari_uflow.store.checkpoint import save_model

    try:
        event = next(steps)
        while True:
            answer = None
            if isinstance(event, Snapshot):
                try:
                    save_model(path, event.result)
                except UFlowError as error:  # a full disk must not end a training
                    yield Message(f"the model could not be saved automatically: {error}", warning=True)
            else:
                answer = yield event
            event = steps.send(answer)
    except StopIteration as stop:
        model: TrainedModel = stop.value
        return model
    finally:
        steps.close()


def interrupted(folder: Path, prefix: str = "") -> list[Path]:
    """Return the snapshots of interrupted trainings, the newest first.

    Those of running processes of this computer are left out. Whether a training on another computer still runs cannot
    be told: its snapshot is among them, so that a training can be resumed on another node of a cluster.

    Parameters
    ----------
    folder, prefix
        As for :func:`new_snapshot`.
    """
    found = [path for path, tag in _snapshots(folder, prefix) if has_ended(tag) or not is_of_this_computer(tag)]
    return sorted(found, key=changed_at, reverse=True)


def _snapshots(folder: Path, prefix: str) -> list[tuple[Path, str]]:
    """Return the snapshots in a folder with their owners."""
    try:
        paths = list(folder.iterdir())
    except OSError:  # a folder that cannot be listed has none
        return []
    matches = [(path, _UNFINISHED.fullmatch(path.name)) for path in paths]
    return [(path, match["tag"]) for path, match in matches if match is not None and match["prefix"] == prefix]


def leave(path: Path) -> None:
    """Mark the snapshot of a failed training as one that is interrupted, though its process runs on."""
    try:
        if path.exists():
            path.rename(path.with_name(path.name.replace(own_tag(), nobody())))
    except OSError:
        logger.warning("could not rename %s", path)


def discard(path: Path, prefix: str = "") -> None:
    """Delete a snapshot, and those of older interrupted trainings.

    Parameters
    ----------
    path : Path
        The snapshot.
    prefix : str
        As for :func:`new_snapshot`.
    """
    time = changed_at(path)
    ended = [other for other, tag in _snapshots(path.parent, prefix) if has_ended(tag)]
    for other in dict.fromkeys([*ended, path]):
        if changed_at(other) <= time:
            delete(other)


def describe(path: Path) -> str:
    """Return images, backbone, step and date of a snapshot; "" if they cannot be read.

    Only the header of the file is read, without torch.
    """
    try:
        card = read_card(path)
    except (UFlowError, OSError):
        return ""
    names = card.record.specimens
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    when = datetime.datetime.fromtimestamp(changed_at(path)).strftime("%Y-%m-%d %H:%M")
    step = int(card.history[-1]["step"]) if card.history else 0
    return f"'{names[0]}'{more}, {card.model.backbone}, step {step} of {card.training.steps}, {when}"
