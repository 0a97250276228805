import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_parameters_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("write_parameters", ROOT / "tools" / "write_parameters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.page(), "run: python tools/write_parameters.py"


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
