"""The files around the package say the same as each other: workflows, citation, changelog, bounds, address."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[2]

EXAMPLE = "https://example.org/someone/napari-uflow"


def load(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def jobs():
    return load(".github/workflows/ci.yml")["jobs"]


def commands(job):
    return [line.strip() for step in job["steps"] for line in step.get("run", "").splitlines()]


# --- workflows ----------------------------------------------------------------------------------


def test_ci_calls_the_two_commands_of_the_readme(jobs):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "    make demo " in readme
    assert "    make test " in readme
    assert {"make demo", "make test"} <= set(commands(jobs["make"]))
    assert set(jobs["make"]["strategy"]["matrix"]["os"]) == {"ubuntu-latest", "macos-latest"}


def test_windows_runs_the_readme_without_make(jobs):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("Without make, and on Windows:\n\n")[1].split("\n\n")[0]
    lines = [re.sub(r" {2,}\(.*\)$", "", line.strip()) for line in block.splitlines()]
    assert len(lines) == 5
    run = commands(jobs["windows"])
    assert [line for line in run if line in lines] == lines


def test_ci_runs_the_oldest_and_the_newest_python(jobs, project):
    oldest = project["project"]["requires-python"].removeprefix(">=")
    classifiers = [c.rpartition(" :: ")[2] for c in project["project"]["classifiers"] if " :: 3." in c]
    newest = max(classifiers, key=lambda version: int(version.partition(".")[2]))
    for name in ("make", "windows"):
        assert jobs[name]["strategy"]["matrix"]["python"] == [oldest, newest]


def test_ci_runs_the_oldest_and_the_newest_dependencies(jobs):
    rows = jobs["dependencies"]["strategy"]["matrix"]["include"]
    assert [row["versions"] for row in rows] == ["oldest", "newest"]
    text = "\n".join(commands(jobs["dependencies"]))
    assert "tools/oldest_versions.py" in text
    assert "make test" in text


def test_ci_lints_and_builds_documentation_and_package(jobs):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {"lint", "docs", "package"}
    assert wanted <= set(targets)
    assert {f"make {target}" for target in wanted} <= set(commands(jobs["lint"]))
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.index("make lint") < script.index("make docs") < script.index("make test")


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_every_file_of_github_is_a_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_a_bug_report_asks_for_what_is_needed():
    fields = {field["id"]: field for field in load(".github/ISSUE_TEMPLATE/bug_report.yml")["body"] if "id" in field}
    for name in ("version", "system", "napari", "log"):
        assert fields[name]["validations"]["required"]
    assert "napari --info" in fields["napari"]["attributes"]["label"]


def test_every_commit_hook_is_a_tool_of_the_dev_extra(project):
    tools = {re.split(r"[>=\[]", requirement)[0] for requirement in project["project"]["optional-dependencies"]["dev"]}
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy", "typos", "validate-pyproject"]
    for hook in hooks:
        assert hook["entry"].split()[0].removeprefix(".venv/bin/") in tools


# --- citation, changelog, icon --------------------------------------------------------------------


def test_the_citation_names_this_version_and_the_paper(project):
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["project"]["version"]
    assert citation["license"] == project["project"]["license"]
    (paper,) = citation["references"]
    assert paper["doi"] == "10.1007/s10851-024-01193-y"
    assert [author["family-names"] for author in paper["authors"]] == ["Tailanian", "Pardo", "Musé"]
    assert paper["year"] == 2024


def test_the_changelog_begins_with_what_is_unreleased():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_the_icon_of_the_manifest_is_a_file_of_the_package():
    package, _, name = load("napari.yaml")["icon"].partition(":")
    icon = ROOT / "src" / Path(*package.split(".")) / name
    assert ElementTree.parse(icon).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert icon.read_bytes() == (ROOT / "docs" / "images" / "icon.svg").read_bytes()


# --- oldest versions --------------------------------------------------------------------------------


def test_oldest_versions_are_the_lower_bounds():
    oldest = load_tool("oldest_versions").oldest_versions
    assert oldest(
        [
            "weights==0.1.0",
            "numpy>=1.26",
            "FrEIA>=0.2,<0.3",
            "napari[all]",
            "zarr >= 2.9",
            "Zarr>=2.18; python_version>'3'",
        ]
    ) == [
        "freia==0.2",
        "numpy==1.26",
        "weights==0.1.0",
        "zarr==2.18",
    ]


def test_every_dependency_has_an_oldest_version(project):
    tool = load_tool("oldest_versions")
    dependencies = project["project"]["dependencies"]
    assert len(tool.oldest_versions(dependencies)) == len(dependencies)
    for extra in tool.EXTRAS:
        assert tool.oldest_versions(project["project"]["optional-dependencies"][extra])


# --- the address of the repository ---------------------------------------------------------------------


def built_metadata(folder):
    return ProjectMetadata(str(folder), PluginManager()).core


def copy_with_address(folder, address):
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text, n = re.subn(r'^repository = ".*"$', f'repository = "{address}"', text, flags=re.MULTILINE)
    assert n == 1, "the address has one place"
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def links(markdown):
    return re.findall(r"\]\(([^)#\s]+)\)", markdown)


def test_without_an_address_links_stay_relative(tmp_path):
    copy_with_address(tmp_path, "")
    core = built_metadata(tmp_path)
    assert core.urls == {}
    assert core.readme_content_type == "text/markdown"
    assert "docs/images/detect.png" in links(core.readme)
    assert core.readme.startswith((ROOT / "README.md").read_text(encoding="utf-8").rstrip())
    assert "## Changes" in core.readme


@pytest.mark.parametrize("address", [EXAMPLE, EXAMPLE + "/"])
def test_an_address_makes_every_link_absolute(tmp_path, address):
    copy_with_address(tmp_path, address)
    core = built_metadata(tmp_path)
    assert core.urls["Source"] == EXAMPLE
    assert all(url.startswith(EXAMPLE) for url in core.urls.values())
    targets = links(core.readme)
    assert all(target.startswith("https://") for target in targets)
    assert f"{EXAMPLE}/raw/HEAD/docs/images/detect.png" in targets
    assert f"{EXAMPLE}/blob/HEAD/docs/napari.md" in targets
    assert "https://napari.org" in targets  # what was absolute stays


def test_absolute_links_keep_anchors_and_leave_the_rest_alone():
    absolute = load_tool("build_metadata").absolute_links
    page = "[a](docs/a.md#b) ![i](i.png) [here](#x) [mail](mailto:a@b.c) [w](https://w.org)"
    assert absolute(page, "") == page
    assert absolute(page, "https://h/o/r") == (
        "[a](https://h/o/r/blob/HEAD/docs/a.md#b) ![i](https://h/o/r/raw/HEAD/i.png) [here](#x) [mail](mailto:a@b.c) "
        "[w](https://w.org)"
    )


def test_the_citation_and_the_site_have_the_same_address(project):
    address = project["tool"]["napari-uflow"]["repository"].rstrip("/")
    assert load("CITATION.cff").get("repository-code", "") == address
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not re.search(r"^(repo_url|edit_uri|site_url):", site, re.MULTILINE), "tools/docs_hooks.py sets them"
