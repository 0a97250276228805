"""Random changes of bytes and of JSON values, of the kinds that break readers."""

from __future__ import annotations

import copy
import random
import struct
from typing import Any

_SIZES = (0, 1, 2, 3, 8, 16, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 10**6, 10**9)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, 10**30, -(10**30), 1.5, float("nan"), float("inf"), 1e-320),
    *("", "x", "../..", "/", "0", "\ud800", "\x1b[31m", "A" * 5000, [], {}, [[]], [None], {"a": 1}, [1] * 3000),
)


def mutated_bytes(rng: random.Random, data: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Return the bytes with some of them between ``first`` and ``last`` replaced, repeated or left out."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 10, 40))):
        end = min(len(changed), len(data) if last is None else last)
        if end <= first:
            break
        i = rng.randrange(first, end)
        match rng.randrange(7):
            case 0:
                changed[i] = rng.randrange(256)
            case 1:
                changed[i] ^= 1 << rng.randrange(8)
            case 2:
                changed[i : i + 4] = struct.pack("<I", rng.choice(_SIZES))
            case 3:
                changed[i : i + 2] = struct.pack("<H", rng.choice((*_SIZES[:8], *range(254, 350))))
            case 4:
                del changed[i : i + rng.choice((1, 2, 4, 16, 200))]
            case 5:
                changed[i:i] = changed[i : i + rng.choice((1, 4, 12, 64))]
            case _:
                del changed[i:]
    return bytes(changed)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with some of its parts replaced, renamed, repeated or left out."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            break
        holder, key = rng.choice(places)
        inner = holder[key]
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("x", "", "format", "path"))] = inner
            case 2 if isinstance(inner, list):
                holder[key] = inner * rng.choice((0, 2, 50))
            case _:
                holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return changed


def _places(value: Any) -> Any:
    """Yield every holder and key within a JSON value (of long lists the first few)."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))[:6]
    else:
        return
    for key, inner in items:
        yield value, key
        yield from _places(inner)
