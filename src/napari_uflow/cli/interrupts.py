"""Signals that ask the program to end: Ctrl-C, those of batch systems, and that of a terminal that is closed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Interrupts"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


class Interrupts:
    """The signals of one run of the program.

    The first signal asks the job to finish. A second Ctrl-C aborts it; further signals of other kinds do not, since a
    system that shuts down may send several. While a result is saved, no signal has an effect.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._is_saving = False

    def __call__(self) -> bool:
        """Return True once the job is asked to finish."""
        return self._first is not None

    @property
    def exit_code(self) -> int:
        """Exit code of a program that a signal has ended: 128 and its number, 130 for Ctrl-C."""
        return 128 + (signal.SIGINT if self._first is None else self._first)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals in a block, except those that the program was started to ignore (``nohup``)."""
        previous = {}
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread, which alone receives signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Let signals wait for the end of a block."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def _handle(self, number: int, frame: object) -> None:  # noqa: ARG002 - signature of the signal module
        is_second = self._first is not None
        if not is_second:
            self._first = number
        if self._is_saving:
            _tell("the result is being saved")
        elif not is_second:
            _tell("finishing; press Ctrl-C again to abort")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def _tell(text: str) -> None:
    # The terminal may be closed, and the signal may have come while something was printed.
    with suppress(OSError, RuntimeError):
        print(f"\n{text}", file=sys.stderr)
