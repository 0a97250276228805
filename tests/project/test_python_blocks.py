"""The Python of README and docs is typed, and runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {
    f"{page.stem.lower()}_{i}": block
    for page in PAGES
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
}


def test_there_are_blocks():
    assert "readme_0" in BLOCKS


@pytest.mark.slow
def test_mypy_accepts_every_block_and_refuses_a_wrong_one(tmp_path):
    """The public names are typed by ``__init__.pyi``; a name that is not in it, or has no type, is an error."""
    pytest.importorskip("mypy")
    blocks = BLOCKS | {"wrong": "from napari_uflow import detect\n\ndetect(1, 2)\n"}
    files = [tmp_path / f"{name}.py" for name in blocks]
    for file, block in zip(files, blocks.values(), strict=True):
        file.write_text(block, encoding="utf-8")
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *options, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert {line.partition(":")[0] for line in errors} == {"wrong.py"}, done.stdout + done.stderr
    assert all("[arg-type]" in line for line in errors)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_runs(name, tmp_path):
    (tmp_path / "block.py").write_text(BLOCKS[name], encoding="utf-8")
    command = [sys.executable, "-W", "error", "block.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
