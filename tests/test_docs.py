"""The pages: up to date, links that lead somewhere, every page reachable on the site."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors_of(page):
    """Return the anchors of a page's headings, as GitHub and Python-Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_parameters_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("write_parameters", ROOT / "tools" / "write_parameters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.page(), "run: python tools/write_parameters.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(linked), f"{page.name} links to {target}#{anchor}"


def test_the_readme_leads_to_the_pages_a_newcomer_needs():
    targets = {target for target, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"docs/napari.md", "docs/false-alarms.md", "docs/method.md", "CONTRIBUTING.md", "CITATION.cff"} <= targets


def test_every_page_is_in_the_navigation_of_the_site():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(items):
        for item in items:
            for value in item.values() if isinstance(item, dict) else [item]:
                yield from pages(value) if isinstance(value, list) else [value]

    ours = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(pages(config["nav"])) == ours | {"changelog.md", "contributing.md"}


@pytest.mark.parametrize("word", ["picture", "promise", "spread", "so many", "is said", "color", "gray"])
def test_pages_keep_to_the_glossary(word):
    # the parameters page is made from config.py, the changelog names what was renamed, and code is not prose
    pages = [page for page in PAGES if page.name not in ("parameters.md", "CHANGELOG.md")]
    prose = {
        page.name: re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S) for page in pages
    }
    assert not [name for name, text in prose.items() if re.search(word, text, re.IGNORECASE)]
