"""Run mutated inputs in forked processes and count what came of them.

A target makes an input from a random generator and uses it. An input may be accepted or refused with a ``UFlowError``;
anything else is a fault: another exception, more time or memory than the limits, a signal that ends the process. Each
input is made from its own number, so that a fault can be made again with ``python -m tests.fuzz NAME --only NUMBER``.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_uflow.errors import UFlowError

BATCH = 50  # inputs of one process
_PATIENCE = 3
MEMORY_LIMIT = 2_000_000_000  # resident bytes of a process


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes
    ----------
    name : str
        Name on the command line.
    make : callable
        ``make(rng, folder)`` writes an input into an empty folder and returns what ``use`` needs.
    use : callable
        Uses the input; may raise ``UFlowError``.
    limit : float
        Longest time for one input, in seconds.
    """

    name: str
    make: Callable[[random.Random, Path], Any]
    use: Callable[[Any], None]
    limit: float = 20.0


@dataclass
class Report:
    """What came of the inputs.

    Attributes
    ----------
    accepted, refused : int
        Numbers of inputs that were used, and that were refused with the program's own error.
    faults : Counter
        Numbers of faults by description.
    numbers : dict
        Number of the first input of each fault.
    peak_memory : int
        Largest resident memory of a process, in bytes.
    seconds : float
        Duration.
    """

    accepted: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, int] = field(default_factory=dict)
    peak_memory: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        n = self.accepted + self.refused + self.faults.total()
        lines = [
            f"{n} inputs in {self.seconds:.0f} s: {self.accepted} accepted, {self.refused} refused, "
            f"{self.faults.total()} faults; peak memory {self.peak_memory / 1e9:.2f} GB"
        ]
        lines += [f"  {k} x {fault} (first: {self.numbers[fault]})" for fault, k in self.faults.most_common()]
        return "\n".join(lines)

    def add(self, number: int, outcome: str) -> None:
        """Count the outcome of one input: 'accepted', 'refused' or the description of a fault."""
        if outcome in ("accepted", "refused"):
            setattr(self, outcome, getattr(self, outcome) + 1)
        else:
            self.faults[outcome] += 1
            self.numbers.setdefault(outcome, number)


def outcome_of(target: Target, number: int, *, seed: int = 0, through: bool = False) -> str:
    """Make and use one input in this process; ``through`` lets other exceptions through."""
    with tempfile.TemporaryDirectory(prefix="uflow-fuzz-") as folder:
        made = target.make(random.Random(f"{seed}:{number}"), Path(folder))
        try:
            target.use(made)
        except UFlowError:
            return "refused"
        except Exception as error:
            if through:
                raise
            own = [f for f in traceback.extract_tb(error.__traceback__) if "napari_uflow" in f.filename]
            where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "elsewhere"
            return f"{type(error).__name__} at {where}: {str(error)[:100]}"
    return "accepted"


def run(target: Target, *, seconds: float, seed: int = 0) -> Report:
    """Fuzz for a time.

    Parameters
    ----------
    target : Target
        What is fuzzed.
    seconds : float
        For how long.
    seed : int, optional
        Other inputs for another seed.
    """
    report, start, number = Report(), time.monotonic(), 0
    patience = 1
    while time.monotonic() - start < seconds:
        done = _batch(target, number, start + seconds, seed, report, patience)
        # a busy machine is no hang: an input that took too long is used once more, with more time
        patience = _PATIENCE if done == number else 1
        number = done
    report.seconds = time.monotonic() - start
    return report


def _batch(target: Target, first: int, end: float, seed: int, report: Report, patience: int) -> int:
    """Run one process; return the number of the next input, the first one for one that must be used once more."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        status = 1
        try:
            for number in range(first, first + BATCH):
                os.write(sink, (json.dumps(outcome_of(target, number, seed=seed)) + "\n").encode())
                if time.monotonic() > end:
                    break
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    number, rest, hung = first, b"", False
    while True:
        ready, _, _ = select.select([source], [], [], patience * target.limit)
        if not ready:
            hung = True
            os.kill(child, signal.SIGKILL)
        data = os.read(source, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            report.add(number, json.loads(line))
            number += 1
    os.close(source)
    _, status, usage = os.wait4(child, 0)
    report.peak_memory = max(report.peak_memory, usage.ru_maxrss * 1024)
    if hung and (number > first or patience == 1):
        return number
    if hung:
        report.add(number, f"no end within {patience * target.limit:g} s")
    elif os.WIFSIGNALED(status):
        report.add(number, f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    elif os.waitstatus_to_exitcode(status):
        report.add(number, "the input could not be made, or the process ended early")
    elif usage.ru_maxrss * 1024 > MEMORY_LIMIT:
        report.faults["more memory than the limit, in one of a batch"] += 1
        report.numbers.setdefault("more memory than the limit, in one of a batch", first)
        return number
    else:
        return number
    return number + 1
