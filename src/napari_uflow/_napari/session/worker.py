"""The part of a job in the worker thread: it drives a core generator to its end and raises no exception."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from napari_uflow._napari.session.libraries import load_libraries
from napari_uflow.errors import BackboneUnavailableError, Stopped, UFlowError
from napari_uflow.progress import FINISH, Event, Finish, Message, Progress, Steps

__all__ = ["Ended", "Outcome", "steps_in_worker"]

logger = logging.getLogger(__name__)

# Minimum time between two progress events for the window; other events are passed on immediately.
_SECONDS_BETWEEN = 0.05

_FOR_DEVELOPERS = (ResourceWarning, DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)


class Outcome(Enum):
    """End of a job. A stopped job may have a result: training keeps its best model."""

    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Ended:
    outcome: Outcome
    result: Any = None
    text: str = ""
    warnings: tuple[str, ...] = ()


def steps_in_worker(
    make_steps: Callable[[], Steps[Any]], held: list[Steps[Any]] | None = None
) -> Generator[Event | None, Finish | None, Ended]:
    """Drive a job, and yield its events for the window.

    Up to thousands of progress events per second are reduced to twenty. Python warnings of this thread become messages:
    a warning shown from a worker can freeze the window. Those meant for developers are logged: the garbage collector
    warns in any thread of what other programs have not closed.

    Parameters
    ----------
    make_steps : callable
        Returns the generator of the job.
    held : list, optional
        Gets the generator, for a caller that has to close it if this worker is never resumed.

    Returns
    -------
    Ended
        The end of the job, an error included.
    """
    heard: list[str] = []
    seen: set[str] = set()
    me = threading.get_ident()
    shown_before = warnings.showwarning

    def hear(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != me:
            shown_before(message, category, *args, **kwargs)
        elif issubclass(category, _FOR_DEVELOPERS):
            logger.info("%s: %s", category.__name__, message)
        elif str(message) not in seen:
            seen.add(str(message))
            heard.append(str(message))

    # napari's worker saves the state of warnings and restores it
    warnings.showwarning = hear
    steps: Steps[Any] | None = None
    answer: Finish | None = None
    asked = False
    last = 0.0
    reported: Event | None = None
    try:
        asked = (yield None) is FINISH  # from now on the window can send
        load_libraries()
        steps = make_steps()
        if held is not None:
            held.append(steps)
        event = next(steps)
        while True:
            while heard:
                asked = (yield Message(heard.pop(0), warning=True)) is FINISH or asked
            is_news = not isinstance(event, Progress) or (event != reported and event.done in (0, event.total))
            if is_news or time.monotonic() - last > _SECONDS_BETWEEN:
                last, reported = time.monotonic(), event
                asked = (yield event) is FINISH or asked
            answer = FINISH if asked else None
            event = steps.send(answer)
    except StopIteration as stop:
        return Ended(Outcome.STOPPED if asked else Outcome.DONE, stop.value, warnings=tuple(heard))
    except Stopped as error:
        return Ended(Outcome.STOPPED, None, str(error), tuple(heard))
    except BackboneUnavailableError as error:
        return Ended(Outcome.FAILED, None, error.text(_WEIGHTS_FOLDER), tuple(heard))
    except UFlowError as error:
        return Ended(Outcome.FAILED, None, str(error), tuple(heard))
    except MemoryError:
        logger.exception("out of memory")
        return Ended(Outcome.FAILED, None, _OUT_OF_MEMORY)
    except Exception as error:
        logger.exception("a job failed")
        return Ended(Outcome.FAILED, None, _in_plain_words(error))
    finally:
        if steps is not None:
            steps.close()


_WEIGHTS_FOLDER = "set its folder in File > Preferences > U-Flow anomaly detection > Weights folder"
_OUT_OF_MEMORY = "not enough memory: choose smaller tiles or a smaller backbone, or close other programs"


def _in_plain_words(error: Exception) -> str:
    """Return one sentence with a remedy for an internal error."""
    if "out of memory" in str(error).lower():
        return f"{_OUT_OF_MEMORY}; Device 'cpu' in File > Preferences uses main memory"
    first = (str(error).splitlines() or [""])[0][:200]
    return (
        f"internal error ({type(error).__name__}: {first}). Your layers are unchanged. If it happens again, please "
        "report it with the log"
    )
