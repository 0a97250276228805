"""A short run of the kills; the long one is a command, ``python -m tests.kill --times 100``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_processes_leave_complete_files() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill", "--times", "5"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^(training|saving|detecting): \d killed, .* 0 faults", done.stdout, re.M)) == 3
