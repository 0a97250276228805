"""Start a process, kill it at a random time, and look at the files it leaves.

A scene is one piece of work. It runs in forks of this process, which has imported everything, so that most of the time
goes to the work itself. Whatever the time of the kill, a file under its final name must be complete.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Some processes shall end before they are killed.
_LONGEST = 1.1
_MOST_TRIES = 5


@dataclass(frozen=True)
class Scene:
    """Work that is killed.

    Attributes
    ----------
    name : str
        Name on the command line.
    prepare : callable
        ``prepare(folder)`` makes the state before the work in an empty folder.
    work : callable
        ``work(folder)`` does it, in a forked process.
    look : callable
        ``look(folder)`` returns what is there after the kill, in a word or two; an exception is a fault.
    """

    name: str
    prepare: Callable[[Path], None]
    work: Callable[[Path], object]
    look: Callable[[Path], str]


@dataclass
class Report:
    """What the killed processes left.

    Attributes
    ----------
    n_killed, n_ended : int
        Processes that were killed at work, and that had ended by themselves.
    found : Counter
        Numbers of what was found after a kill.
    faults : list of str
        What must not be found, with the number of the process.
    """

    n_killed: int = 0
    n_ended: int = 0
    found: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = ", ".join(f"{text} {number}" for text, number in self.found.most_common())
        lines = [f"{self.n_killed} killed, {self.n_ended} ended before; {len(self.faults)} faults; found: {found}"]
        return "\n  ".join(lines + self.faults)


def run(scene: Scene, folder: Path, *, times: int, seed: int = 0) -> Report:
    """Kill a scene at random times.

    Parameters
    ----------
    scene : Scene
        The scene.
    folder : Path
        Empty folder; each process gets a new one in it.
    times : int
        Number of processes to kill at work.
    seed : int
        Seed of the times.
    """
    rng = random.Random(seed)
    report = Report()
    whole = min(_duration_of(scene, folder / f"whole{i}") for i in range(2))
    for number in range(_MOST_TRIES * times):
        if report.n_killed == times:
            break
        place = folder / str(number)
        place.mkdir()
        scene.prepare(place)
        try:
            is_killed = _killed_after(_LONGEST * whole * rng.random(), scene, place)
            report.n_killed += is_killed
            report.n_ended += not is_killed
            report.found[scene.look(place)] += 1
        except Exception as error:
            report.faults.append(f"process {number}: {type(error).__name__}: {error}")
        shutil.rmtree(place)
    return report


def _killed_after(seconds: float, scene: Scene, place: Path) -> bool:
    """Kill a process at some time of its work; return False if it was done."""
    pid, ready = _start(scene, place)
    os.read(ready, 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(ready)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, (place / ".log").read_text()[-1000:]
    return False


def _duration_of(scene: Scene, place: Path) -> float:
    place.mkdir()
    scene.prepare(place)
    pid, ready = _start(scene, place)
    os.read(ready, 1)
    start = time.monotonic()
    os.read(ready, 1)
    seconds = time.monotonic() - start
    status = os.waitpid(pid, 0)[1]
    os.close(ready)
    assert status == 0, f"{scene.name} does not work: {(place / '.log').read_text()[-2000:]}"
    scene.look(place)
    return seconds


def _start(scene: Scene, place: Path) -> tuple[int, int]:
    """Start a scene in a new process; return its id, and a pipe that gets a byte when it begins and when it is done."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid:
        os.close(begun)
        return pid, ready
    code = 1
    try:
        log = os.open(place / ".log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.write(begun, b"x")
        code = int(bool(scene.work(place)))
        os.write(begun, b"x")
    finally:
        os._exit(code)
