"""How numbers are said."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: float, noun: str, plural: str = "") -> str:
    """Return a number of things: "1 tile", "0.5 false alarms"; the plural takes an s where none is given."""
    number = f"{n:g}" if isinstance(n, float) else str(n)
    return f"{number} {noun if n == 1 else plural or f'{noun}s'}"
