"""How numbers are said."""

from __future__ import annotations

__all__ = ["LEAST_PART", "counted", "how_far"]

LEAST_PART = 0.01
"""Of a step, from which it is worth telling."""


def counted(n: float, noun: str, plural: str = "") -> str:
    """Return a number of things: "1 tile", "0.5 false alarms"; the plural takes an s where none is given."""
    number = f"{n:g}" if isinstance(n, float) else str(n)
    return f"{number} {noun if n == 1 else plural or f'{noun}s'}"


def how_far(done: int, total: int, part: float) -> str:
    """Return how far something has come: "1 of 2", "1 of 2 and 23%" with a part of the next one."""
    of_next = f" and {part:.0%}" if part >= LEAST_PART else ""
    return f"{done} of {total}{of_next}"
