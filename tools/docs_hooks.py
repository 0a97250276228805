"""Hooks of the documentation site: pages from the top folder, the list of public names, nothing from other servers."""

import importlib
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

TOP_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Page of the top folder -> its page on the site."""

PLACE_OF_NAMES = "<!-- public names -->"

GROUPS = {
    "training": "Training",
    "detection": "Detection",
    "image": "Images",
    "store": "Files",
    "model": "Models",
    "config": "Parameters",
    "samples": "Sample data",
    "errors": "Errors",
}
"""First part of a public name's module inside the package -> heading, in the order of the page."""

_LOADED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>", re.IGNORECASE
)


def public_names(package: str = "napari_uflow") -> dict[str, list[str]]:
    """Return the full paths of the public names, where they are defined, by heading.

    Parameters
    ----------
    package : str
        Its ``__all__`` is the list; functions and classes say by ``__module__`` where they are defined.
    """
    found: dict[str, list[str]] = {}
    module = importlib.import_module(package)
    for name in module.__all__:
        if name.startswith("_"):
            continue
        value = getattr(module, name)
        defined = getattr(value, "__module__", package)
        room = defined.removeprefix(f"{package}.").split(".")[0]
        found.setdefault(GROUPS.get(room, "Others"), []).append(f"{defined}.{name}")
    order = [*GROUPS.values(), "Others"]
    return {heading: sorted(found[heading], key=_by_name) for heading in order if heading in found}


def _by_name(path: str) -> str:
    return path.rpartition(".")[2].lower()


def names_page(names: dict[str, list[str]]) -> str:
    """Return the Markdown that mkdocstrings turns into the reference."""
    parts = [f"## {heading}\n\n" + "\n\n".join(f"::: {path}" for path in paths) for heading, paths in names.items()]
    return "\n\n".join(parts)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the repository and edit links if pyproject.toml has the repository's address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    repository = project["tool"]["napari-uflow"]["repository"].rstrip("/")
    if repository:
        config.repo_url = repository
        config.repo_name = "/".join(repository.split("/")[-2:])
        config.edit_uri = "edit/HEAD/docs/"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the top folder."""
    for source, name in TOP_PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let links that are right in the repository be right on the site, and list the public names."""
    if page.file.src_uri in TOP_PAGES.values():
        page.edit_url = None  # its source is in another folder
        markdown = re.sub(r"\]\((?!\w+:|#)(?:docs/)?([^)]+)\)", lambda m: f"]({site_target(m[1])})", markdown)
    markdown = re.sub(r"\]\(\.\./([^)]+)\)", lambda m: f"]({site_target(m[1])})", markdown)
    if PLACE_OF_NAMES in markdown:
        markdown = markdown.replace(PLACE_OF_NAMES, names_page(public_names()))
    return markdown


def site_target(target: str) -> str:
    """Return the page on the site of a page in the top folder; other targets as they are."""
    path, mark, anchor = target.partition("#")
    return TOP_PAGES.get(str(PurePosixPath(path)), path) + mark + anchor


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Refuse a page that loads anything from another server.

    Raises
    ------
    PluginError
        With the first such element.
    """
    for element in _LOADED.findall(output):
        if 'rel="canonical"' not in element:
            raise PluginError(f"{page.file.src_uri} loads something from another server: {element}")
    return output
