"""Print pip constraints that hold every dependency at the oldest version that pyproject.toml allows.

Usage: ``python tools/oldest_versions.py > oldest.txt``, then ``PIP_CONSTRAINT=oldest.txt make test``.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"

EXTRAS = ("cluster", "test", "zarr")
"""The extras whose packages are imported by this package or its tests."""

_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(?P<versions>[^;]*)")


def oldest_versions(requirements: Iterable[str]) -> list[str]:
    """Return constraints such as "numpy==1.26" of the requirements that have an oldest version, sorted by name.

    Parameters
    ----------
    requirements : iterable of str
        As in pyproject.toml: "numpy>=1.26", "FrEIA>=0.2,<0.3". A requirement without ">=" or "==" is left out; of
        two bounds for one package the higher one counts.
    """
    oldest: dict[str, tuple[tuple[int, ...], str]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement.strip())
        bound = re.search(r"[>=]=\s*([0-9][0-9.]*)", match["versions"]) if match else None
        if match is None or bound is None:
            continue
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        key = tuple(int(part) for part in bound[1].rstrip(".").split("."))
        oldest[name] = max(oldest.get(name, (key, bound[1])), (key, bound[1]))
    return [f"{name}=={version}" for name, (_, version) in sorted(oldest.items())]


if __name__ == "__main__":
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    print("\n".join(oldest_versions([*project["dependencies"], *(r for extra in EXTRAS for r in extras[extra])])))
