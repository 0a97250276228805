"""Patterns for the names of specimens, from parts that search long or are no pattern."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.harness import Target

from napari_uflow.image.specimen import specimen_of

_PARTS = (
    *("a", "b", ".", r"\d", r"\w", r"\s", "[a-z]", "[^_]", "_", "x|y", "|", "^", "$", r"\b", r"\1", "(?i)", "\udcff"),
    *("+", "*", "?", "{2,}", "{1,30}", "{99999}", "{9999999999999}", "*?", "++", "(?:", "(?=", "(?!", "(?<=", "(?P<n>"),
    *(
        "(",
        ")",
        "((a+)+)",
        "(a|a)*",
        "(.*a){20}",
        "(?:a?){40}",
        "[",
        "]",
        "\\",
        "\0",
        "\n",
        "(?#",
        "(?(1)a|b)",
        r"\N{DIGIT ONE}",
    ),
)
_NAMES = (
    "slide4_x000_y128",
    "a" * 60,
    "a" * 250 + "!",
    "ab" * 40 + "_" * 60,
    "",
    "\udcff",
    "2024-05-01 mouse3 \u00b5m",
)


_ATOMS = ("a", "b", ".", r"\d", r"\w", "[a-z]", "[^_]", "_", "slide", "mouse", "x", "a|b", "a|a", "\u00b5", ".*")
_QUANTIFIERS = ("", "", "", "+", "*", "?", "*?", "+?", "{1,3}", "{20}", "{2,}")


def _expression(rng: random.Random, depth: int) -> str:
    """Return an expression without errors, whose repetitions may be nested."""
    if not depth or rng.random() < 0.4:
        return "(?:" + rng.choice(_ATOMS) + ")" + rng.choice(_QUANTIFIERS)
    inner = "".join(_expression(rng, depth - 1) for _ in range(rng.choice((1, 1, 2, 3))))
    return f"(?:{inner}){rng.choice(_QUANTIFIERS)}"


def _make(rng: random.Random, folder: Path) -> tuple[str, str]:
    name = rng.choice(_NAMES)
    if rng.random() < 0.6:
        before, group, after = (_expression(rng, 3) for _ in range(3))
        return f"{rng.choice((before, '', '^'))}({group}){rng.choice((after, '', '$', '!'))}", name
    parts = [rng.choice(_PARTS) for _ in range(rng.choice((1, 2, 3, 5, 8)))]
    return "".join([*parts, rng.choice(("(a)", "((?:a+)+)", "(.+)", ""))]), name


def _use(made: tuple[str, str]) -> None:
    pattern, name = made
    specimen_of(name, pattern)


TARGET = Target("pattern", _make, _use)
