"""Names of image files, and files that are written completely or not at all."""

import errno
import io
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.system.owner import TAG, has_ended, own_tag

__all__ = [
    "append_text",
    "atomic_path",
    "changed_at",
    "delete",
    "made_folder",
    "place_of",
    "remove_leftovers",
    "stem_of",
    "temporary_name",
]

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)

_TEMPORARY = re.compile(rf"\.uflow-({TAG})-[0-9a-f]{{8}}-.*", re.DOTALL)
# Letters of the file's name at the end of its temporary name, which must not be longer than names may be.
_KEPT_OF_NAME = 20


def stem_of(path: Path) -> str:
    """Return the name of an image file without its ending, ".tif" or ".ome.tif"."""
    return path.stem.removesuffix(".ome").removesuffix(".OME") or path.stem


def changed_at(path: Path) -> float:
    """Return the time of the last change of a file in seconds; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def delete(path: Path) -> None:
    """Delete a file; one that another program holds open stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        logger.warning("could not delete %s", path)


def _mode(target: Path) -> int:
    """Return the permissions of the file to replace, or those of a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def place_of(path: str | os.PathLike[str]) -> Path:
    """Return the file that a name leads to: that of a symbolic link is replaced by the writers, and the link stays."""
    target = Path(path)
    return Path(os.path.realpath(target)) if os.path.islink(target) else target


def temporary_name(target: Path) -> Path:
    """Return an unused hidden name in the folder of a file, with the file's ending and the owner of the file."""
    return target.with_name(f".uflow-{own_tag()}-{uuid.uuid4().hex[:8]}-{target.name[-_KEPT_OF_NAME:]}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in a folder whose process was killed.

    Files of running processes, of other computers and of other programs stay.

    Parameters
    ----------
    folder : Path
        A folder that :func:`atomic_path` writes to.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:  # a folder that cannot be listed has none
        return
    for path in paths:
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and has_ended(match[1]):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else delete(path)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Provide a folder for results, without what killed runs have left in it.

    A folder that is made for it is removed if the block raises before anything is in it.

    Parameters
    ----------
    folder : Path
        The folder; it and those above it are created if they do not exist.

    Raises
    ------
    ConfigError
        If it cannot be created or written to.
    """
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the folder '{folder}' ({error.strerror or error}); choose another output folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write to the folder '{folder}'; choose another output folder")
    remove_leftovers(folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for place in new:
                place.rmdir()
        raise


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary file to write to; it is moved to its place when the block ends without an error.

    Readers of `path` see the previous file or the complete new one, even if the computer loses its power.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced. Of a symbolic link it is the file that the link leads to.

    Yields
    ------
    Path
        File of the same name in a hidden folder beside it, which is also that of the temporary files of libraries. The
        folder is removed if the block raises; if the process is killed, :func:`remove_leftovers` removes it.

    Raises
    ------
    UFlowError
        If the folder does not exist, the disk is full, or the file cannot be replaced because another program has it
        open. (Every OSError of the block is reported as one of these.)
    """
    target = place_of(path)
    # tempfile creates files that only their owner may read.
    folder = temporary_name(target)
    temporary = folder / target.name
    try:
        if not target.parent.is_dir():
            raise UFlowError(f"'{target}' cannot be written: there is no folder '{target.parent}'")
        if target.is_dir():
            raise UFlowError(f"'{target}' cannot be written: it is a folder")
        folder.mkdir()
        yield temporary
        _flush(temporary)
        # Some libraries write files that only their owner may read.
        temporary.chmod(_mode(target))
        os.replace(temporary, target)
    except OSError as error:
        raise _not_written(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def append_text(path: Path, text: str) -> None:
    """Add a text to the end of a file, as a whole or not at all.

    Parameters
    ----------
    path : Path
        Existing file.
    text : str
        Text to add, in UTF-8.

    Raises
    ------
    UFlowError
        If that is not possible; the file is as it was.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, text.encode())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise _not_written(path, error) from error


def _write_all(file: io.RawIOBase, data: bytes) -> None:
    """Write bytes to an unbuffered file, which takes only some of them when the disk becomes full."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _not_written(path: Path, error: OSError) -> UFlowError:
    remedy = "free some space" if error.errno in _FULL else "close it in other programs"
    return UFlowError(f"'{path}' cannot be written ({error.strerror or error}); {remedy}, or choose another place")


def _flush(path: Path) -> None:
    """Write a file to the disk: a network disk says only now that it is full."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
