"""Metadata hook of Hatch: absolute links of the page on PyPI and project.urls, from the address in pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>(?![a-z][a-z0-9+.-]*:|#)[^()\s]+)\)")


def absolute_links(markdown: str, repository: str) -> str:
    """Return a page of the top folder with its relative links leading to the repository.

    Parameters
    ----------
    markdown : str
        The page.
    repository : str
        Address of the repository without a slash at the end; with "" the page stays as it is.
    """
    if not repository:
        return markdown

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{kind}/HEAD/{link['target']})"

    return _LINK.sub(absolute, markdown)


class RepositoryLinks(MetadataHookInterface):
    """Fill in what needs the repository's address; without an address links stay relative and there are no URLs."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Change the project's metadata, after hatch-fancy-pypi-readme has put the page together."""
        project = tomllib.loads((Path(self.root) / "pyproject.toml").read_text(encoding="utf-8"))
        repository = project["tool"]["napari-uflow"]["repository"].rstrip("/")
        page = metadata["readme"]
        page["text"] = absolute_links(page["text"], repository)
        metadata["urls"] = {}
        if repository:
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/HEAD/docs/index.md",
                "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
