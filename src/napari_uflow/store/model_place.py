"""Where a model may be saved: which files it replaces, and whether the place can be written to."""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from napari_uflow.errors import ModelFileError, OverwriteError, UFlowError
from napari_uflow.store.card import read_card
from napari_uflow.store.files import place_of, temporary_name

__all__ = ["check_model_place", "other_places"]


def check_model_place(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if a model cannot be saved to a file, or if it would replace a file that is no model.

    Parameters
    ----------
    path : path-like
        File to write.
    overwrite : bool
        Accept that a file of any kind is replaced.

    Raises
    ------
    OverwriteError
        If the file exists and is not a model.
    UFlowError
        If it cannot be written: it is a folder or a device, it is write-protected, or its folder does not exist or
        cannot be written to.
    """
    target = place_of(path)
    try:
        _check_file(target, overwrite=overwrite)
        trial = temporary_name(target)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UFlowError(
            f"'{target}' cannot be written ({error.strerror or error}); choose another place for the model"
        ) from error


def _check_file(target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise UFlowError(f"'{target}' cannot be written: there is no folder '{target.parent}'")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if target.is_dir():
        raise UFlowError(f"'{target}' cannot be written: it is a folder; add a file name")
    if not stat.S_ISREG(mode):
        raise UFlowError(f"'{target}' cannot be written: it is not an ordinary file; choose another name")
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(target, os.W_OK):
        raise UFlowError(f"'{target}' cannot be written: it is write-protected; choose another name")
    if not overwrite and not _is_model(target):
        raise OverwriteError(f"'{target}' exists and is not a model of napari-uflow; choose another name")


def _is_model(path: Path) -> bool:
    try:
        read_card(path)
    except ModelFileError:
        return False
    return True


def other_places(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield unused names for a model that cannot be saved to a file: beside it, then in folders on other disks.

    Parameters
    ----------
    path : path-like
        File that cannot be written.
    """
    target = Path(path)
    find_folders: list[Callable[[], str | Path]] = [
        lambda: target.absolute().parent,
        Path.cwd,
        Path.home,
        tempfile.gettempdir,
    ]
    folders = []
    for find in find_folders:
        with suppress(OSError, RuntimeError):  # there is no such folder
            folders.append(Path(find()))
    for folder in dict.fromkeys(folders):
        yield _unused(folder, target)


def _unused(folder: Path, target: Path) -> Path:
    suffix = target.suffix or ".safetensors"
    names = (folder / f"{target.stem}-{number}{suffix}" for number in itertools.count(2))
    return next(name for name in names if not os.path.lexists(name))
