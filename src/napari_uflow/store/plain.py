"""Frozen values from the plain ones of a JSON text, whose types are checked: a file may hold anything."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from napari_uflow.config import Config

__all__ = ["from_plain"]


def from_plain(hint: Any, value: Any) -> Any:
    """Make a value of a type from plain values.

    Parameters
    ----------
    hint : type
        ``int``, ``float``, ``str``, ``bool``, None, an enum, a tuple, a mapping, a dataclass of these, or a union.
    value : object
        Numbers, texts, lists and dictionaries, as ``json.loads`` returns them. Unknown entries of a dataclass are
        left out; missing ones keep their defaults.

    Returns
    -------
    object
        Value of that type.

    Raises
    ------
    TypeError
        If a value is of another type, or an entry without a default is missing.
    ValueError
        If a number is infinite, a tuple has another length, or an enum has no such value.

    Examples
    --------
    >>> from_plain(tuple[float, float] | None, [1, 2.5])
    (1.0, 2.5)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (each for each in arguments if each is not type(None))
        return from_plain(hint, value)
    if origin is tuple:
        return _tuple(arguments, value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {from_plain(arguments[0], k): from_plain(arguments[1], v) for k, v in _items(value)}
    if issubclass(hint, Config):
        return hint.from_dict(dict(_items(value)))
    if is_dataclass(hint):
        return _dataclass(hint, dict(_items(value)))
    if issubclass(hint, Enum):
        return hint(value)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise TypeError(f"expected {hint.__name__}, not {_shortened(value)}")
    if hint is float and math.isinf(value):
        raise ValueError("a number is infinite")
    return value


def _dataclass(hint: Any, given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(hint)
    return hint(**{f.name: from_plain(hints[f.name], given[f.name]) for f in fields(hint) if f.name in given})


def _tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, not {_shortened(value)}")
    if arguments[-1] is Ellipsis:
        return tuple(from_plain(arguments[0], item) for item in value)
    return tuple(from_plain(hint, item) for hint, item in zip(arguments, value, strict=True))


def _items(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected entries with names, not {_shortened(value)}")
    return value.items()


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
