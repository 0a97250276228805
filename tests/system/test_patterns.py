"""Patterns of the user: found as re finds them, and never a search without an end."""

import re
import time

import pytest

from napari_uflow.errors import ConfigError
from napari_uflow.system import patterns
from napari_uflow.system.patterns import search_group


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"_(mouse\d+)_", ["2024_mouse3_s1", "mouse4", "a_mouse12_b"]),
        (r"^(.)", ["\u00b5m", "\udcff", ""]),
        (r"(?i)(SLIDE)?x", ["slidex", "x"]),
        ("(a\nb)", ["a\nb"]),
    ],
)
def test_a_pattern_is_searched_in_the_names(pattern, names):
    expected = [(match and match[1]) or None for match in (re.search(pattern, name) for name in names)]
    assert search_group(pattern, names) == expected
    assert search_group(pattern, []) == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "is not a regular expression"),
        ("*", "is not a regular expression"),
        ("(a){99999999999999999999}", "is not a regular expression"),
        ("(" * 5000 + ")" * 5000, "is not a regular expression|not 5000"),
        ("abc", "must have one group in parentheses, the specimen, not 0"),
        ("(a)(b)", "must have one group in parentheses, the specimen, not 2"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, said):
    with pytest.raises(ConfigError, match=f"the specimen pattern .*({said})"):
        search_group(pattern, ["name"])


@pytest.mark.parametrize(
    "pattern", ["((?:a+)+)$", "((?:a|a)*)b", "((?:.*a){25})$", r"(a)(?:\1?\1?)*b" + "a?" * 30 + "!"]
)
def test_a_search_without_an_end_is_ended(pattern, monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="takes too long to search"):
        search_group(pattern, ["a" * 60 + "c"])
    assert time.monotonic() - start < 10
    with pytest.raises(ConfigError, match="takes too long"):  # known by now
        search_group(pattern, ["a" * 60 + "c"])
