"""Time and memory of a detection from file to files, by size of the image.

    python benchmarks/large_image.py model.safetensors [--sides 1000 2000 4000 10000] [--tile 0] [--json FILE]

Each size runs in a separate process: the input is a uint16 image of drawn fibres in a tiled TIFF file, the outputs are
heatmap, NFA and labels as TIFF. Memory is the largest resident size of the process above that after loading libraries
and model; "in all" includes them. Pages of mapped files count while they are resident. "stop" is the longest time
between two events, at which a detection can be stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


def draw(path: Path, side: int) -> None:
    """Write an image of fibres with a few squares of noise, in tiles."""
    from napari_uflow.samples.fibres import fibre_field
    from napari_uflow.store.tiff_writer import write_tiff_tiles

    blocks = [fibre_field(seed, shape=(512, 512)).image.astype(np.uint16) * 100 for seed in range(4)]
    noise = np.random.default_rng(0).integers(0, 25000, (40, 40)).astype(np.uint16)

    def tiles():
        number = 0
        for row in range(0, side, 512):
            for col in range(0, side, 512):
                values = blocks[(row // 512 + 3 * (col // 512)) % 4].copy()
                if number % 7 == 0:
                    values[200:240, 100:140] = noise
                number += 1
                yield values[: side - row, : side - col]

    write_tiff_tiles(path, tiles(), (side, side), np.uint16, tile=(512, 512), pixel_size=(0.09, 0.09), unit="um")


def memory() -> dict[str, float]:
    """Return resident memory in GB: in all, and without mapped files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) / 1e6
    return found


def one(model: Path, side: int, tile: int, folder: Path) -> None:
    """Detect in one image and print time and memory as JSON."""
    from napari_uflow.batch.files import detect_files_steps
    from napari_uflow.config import DetectionConfig
    from napari_uflow.progress import Progress, drain
    from napari_uflow.store.checkpoint import load_model

    path = folder / f"image {side}.tif"
    trained = load_model(model)
    trained.network()
    before = memory()
    most = dict(before)
    is_over = threading.Event()
    phases: dict[str, float] = {}
    last: list[Any] = ["", time.monotonic()]

    peaks: dict[str, float] = {}
    pauses: dict[str, float] = {}

    def watch() -> None:
        while not is_over.wait(0.02):
            now = memory()
            for name, value in now.items():
                most[name] = max(most[name], value)
            peaks[last[0]] = max(peaks.get(last[0], 0.0), now["RssAnon"] - before["RssAnon"])

    def hear(event: object) -> None:
        now = time.monotonic()
        phases[last[0]] = phases.get(last[0], 0.0) + now - last[1]
        pauses[last[0]] = max(pauses.get(last[0], 0.0), now - last[1])
        last[:] = [event.phase if isinstance(event, Progress) else last[0], now]

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    steps = detect_files_steps(trained, [path], folder / f"out {side}", DetectionConfig(tile=tile))
    summary = drain(steps, hear)
    seconds = time.monotonic() - began
    is_over.set()
    watcher.join()
    found = {
        "side": side,
        "seconds": seconds,
        "gb": most["VmRSS"] - before["VmRSS"],
        "gb_without_files": most["RssAnon"] - before["RssAnon"],
        "gb_in_all": most["VmRSS"],
        "n_regions": summary.n_regions,
        "stop": max(pauses.values()),
        "phases": {
            name: (round(value, 1), round(peaks.get(name, 0), 2), round(pauses[name], 2))
            for name, value in phases.items()
            if value > 0.5
        },
        "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(found))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 4000, 10000])
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.model, options.one, options.tile, options.folder)
        return
    rows = []
    print(
        f"{'side':>6}{'seconds':>10}{'s/Mpixel':>10}{'GB':>8}{'no files':>10}{'in all':>8}{'stop':>7}{'regions':>9}"
        "  phases: seconds, GB without files, longest pause"
    )
    with tempfile.TemporaryDirectory() as name:
        for side in options.sides:
            folder = Path(name)
            draw(folder / f"image {side}.tif", side)
            command = [sys.executable, __file__, str(options.model), "--one", str(side), "--folder", name]
            command += ["--tile", str(options.tile)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{side:>6}{row['seconds']:>10.1f}{row['seconds'] / side**2 * 1e6:>10.2f}{row['gb']:>8.2f}"
                f"{row['gb_without_files']:>10.2f}{row['gb_in_all']:>8.2f}{row['stop']:>7.2f}"
                f"{row['n_regions']:>9}  {row['phases']}",
                flush=True,
            )
    if len(rows) > 1:
        sides = np.log([row["side"] for row in rows])
        slope = np.polyfit(2 * sides, np.log([row["seconds"] for row in rows]), 1)[0]
        print(f"time grows as pixels to the {slope:.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
