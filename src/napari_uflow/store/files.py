"""Files that are written as a whole or not at all."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_uflow.errors import UFlowError

__all__ = ["atomic_path"]


def _mode(target: Path) -> int:
    """Return the permissions of the file that is replaced, or those of a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to; the file gets its own name once the block is left without an error.

    Whoever opens `path` finds the previous file, or the new one, but never a part of one.

    Parameters
    ----------
    path : path-like
        The file to be written; one that exists is replaced.

    Yields
    ------
    Path
        A name in the same folder with the same ending, where no file is yet. What was written there is removed if the
        block raises.

    Raises
    ------
    UFlowError
        If the folder does not exist, the disk is full, or the file cannot be replaced, as when another program holds it
        open. (Every OSError of the block is taken for one of these.)
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise UFlowError(f"'{target}' cannot be written: there is no folder '{target.parent}'")
    if target.is_dir():
        raise UFlowError(f"'{target}' cannot be written: it is a folder")
    # tempfile would make a file that nobody but its owner may read.
    temporary = target.with_name(f".{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        # Some libraries write files that nobody but their owner may read.
        temporary.chmod(_mode(target))
        os.replace(temporary, target)
    except OSError as error:
        raise UFlowError(
            f"'{target}' cannot be written ({error.strerror or error}); "
            "close it in other programs, or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
