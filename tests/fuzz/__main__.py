"""Fuzz one target: ``python -m tests.fuzz tiff --seconds 1800``; exit status 1 where there is a fault."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path


def main() -> int:
    """Run the command."""
    names = sorted(p.stem for p in (Path(__file__).parent / "targets").glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=names)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="use this one input, in this process: its exception is seen")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from . import harness

    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    warnings.simplefilter("ignore")
    logging.disable()
    target = importlib.import_module(f"tests.fuzz.targets.{options.target}").TARGET
    if options.only is not None:
        print(harness.outcome_of(target, options.only, seed=options.seed, through=True))
        return 0
    report = harness.run(target, seconds=options.seconds, seed=options.seed)
    print(f"{target.name}: {report}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
