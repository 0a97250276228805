"""Kill training, saving and detecting at random times: ``python -m tests.kill --times 100``; exit 1 if faults."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path


def main() -> int:
    """Run the command."""
    names = ("training", "saving", "detecting")
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("scenes", nargs="*", choices=[[], *names], metavar="SCENE", help=f"{', '.join(names)} (all)")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from .harness import run
    from .scenes import make_scenes

    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            scenes = make_scenes(Path(name))
        faults = 0
        for scene in options.scenes or names:
            folder = Path(name) / scene
            folder.mkdir()
            report = run(scenes[scene], folder, times=options.times, seed=options.seed)
            print(f"{scene}: {report}", flush=True)
            faults += len(report.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
