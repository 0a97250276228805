"""Regular expressions of the user, searched within a limited time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from napari_uflow.errors import ConfigError

__all__ = ["search_group"]

_SECONDS = 5.0
# In a process of its own: a search holds the interpreter lock, and nothing but the end of its process ends it.
_PROGRAM = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
except Exception as error:
    answer = {"error": f"is not a regular expression: {error}"}
else:
    answer = {"error": f"must have one group in parentheses, the specimen, not {compiled.groups}"}
    if compiled.groups == 1:
        answer = {"found": [match and match[1] for match in map(compiled.search, names)]}
json.dump(answer, sys.stdout)
"""


def search_group(pattern: str, names: Sequence[str], *, what: str = "specimen") -> list[str | None]:
    """Search a regular expression with one group in names.

    Parameters
    ----------
    pattern : str
        Regular expression in the notation of Python.
    names : sequence of str
        Names of files.
    what : str
        What the group matches, for messages.

    Returns
    -------
    list of str or None
        What the group matched in each name; None without a match or for an empty one.

    Raises
    ------
    ConfigError
        If the pattern is no regular expression with one group, or the search takes more than five seconds: some
        patterns, such as ``(a+)+$``, take longer than the age of the universe for a name of 60 letters.
    """
    if not names:
        return []
    answer = _answer(pattern, tuple(names))
    if "error" in answer:
        raise ConfigError(f"the {what} pattern {pattern!r} {answer['error'].replace('specimen', what)}")
    return [found or None for found in answer["found"]]


@lru_cache(maxsize=16)
def _answer(pattern: str, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", _PROGRAM],
            input=json.dumps([pattern, names]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired:
        return {"error": f"takes too long to search (more than {_SECONDS:g} s): repeat nothing that is a repetition"}
    except subprocess.CalledProcessError:  # it may have taken all the memory
        return {"error": "cannot be searched"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
