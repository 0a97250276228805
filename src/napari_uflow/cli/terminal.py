"""Standard streams that pass on no control character of a name or of a model's card."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from napari_uflow.wording import printable

__all__ = ["OutputError", "clear_line", "plain_streams"]

_CLEAR_LINE = "\r\x1b[K"


class OutputError(OSError):
    """A standard stream cannot be written to, such as a file on a full disk."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has heard enough
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error)) from error


class _PlainStream:
    """Text stream that writes control characters out, all but tabs and line breaks, and what it cannot encode."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; return the number of its characters."""
        encoding = self.stream.encoding or "utf-8"
        safe = printable(text, keep="\t\n").encode(encoding, "backslashreplace").decode(encoding)
        with _told():
            self.stream.write(safe)
        return len(text)

    def flush(self) -> None:
        """Write out what is kept in memory."""
        with _told():
            self.stream.flush()

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """Let standard output and error pass through such streams, whoever writes to them: warnings and libraries too.

    A program that was started without one of them (``>&-``, a service) has one that discards everything.
    """
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(_PlainStream(sys.stdout or nowhere)),
        contextlib.redirect_stderr(_PlainStream(sys.stderr or nowhere)),
    ):
        yield


def clear_line() -> None:
    """Clear the line of standard error at which the cursor is."""
    stream = sys.stderr
    (stream.stream if isinstance(stream, _PlainStream) else stream).write(_CLEAR_LINE)
