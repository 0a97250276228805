"""The batch on a cluster: the same results as at home; a lost worker costs nothing, or only its image."""

import csv
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tifffile

from napari_uflow.batch import cluster
from napari_uflow.batch.cluster import detect_on_cluster_steps
from napari_uflow.batch.files import PHASE, detect_files_steps
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import UFlowError
from napari_uflow.progress import FINISH, Message, Progress, drain
from napari_uflow.store.tiff_writer import write_tiff

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of dask and tornado, about ports and processes that were killed
]

CONFIG = DetectionConfig()


@pytest.fixture(scope="module")
def local_cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
    ) as found:
        yield found


@pytest.fixture
def folder(odd_plane, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        write_tiff(images / f"odd {i}.tif", np.roll(odd_plane.data, 3 * i, axis=1), "YX")
    return images


def files(folder):
    return sorted(folder.glob("*.tif"))


def on_cluster(local_cluster, model, paths, output, **options):
    return detect_on_cluster_steps(
        model, paths, output, CONFIG, local_cluster.scheduler_address, device="cpu", **options
    )


def table(folder, name):
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_results_are_those_of_one_machine(local_cluster, tiny_model, folder, tmp_path):
    (folder / "bad.tif").write_text("no image")
    here, there = tmp_path / "here", tmp_path / "there"
    alone = drain(detect_files_steps(tiny_model, files(folder), here, CONFIG, device="cpu"))
    events = []
    summary = drain(on_cluster(local_cluster, tiny_model, files(folder), there), events.append)
    assert summary == alone
    assert [path.name for path, _ in summary.failed] == ["bad.tif"]
    assert {path.name for path in there.iterdir()} == {path.name for path in here.iterdir()}
    for name in ("summary.csv", "regions.csv"):
        assert table(there, name) == table(here, name)
    np.testing.assert_array_equal(
        tifffile.imread(there / "odd 2_labels.tif"), tifffile.imread(here / "odd 2_labels.tif")
    )
    assert events[-1] == Progress(PHASE, 5, 5)
    assert any(isinstance(event, Message) and "2 workers" in event.text for event in events)


def test_a_batch_is_continued_on_the_cluster(local_cluster, tiny_model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_uflow.batch.run._SHARE", 0)  # tables after every file, on a busy machine too
    out = tmp_path / "out"
    (tmp_path / "out").mkdir()
    (out / "odd 3_labels.tif").write_text("my own")
    steps = on_cluster(local_cluster, tiny_model, files(folder), out)
    next(event for event in steps if isinstance(event, Progress) and event.done == 2)
    steps.close()
    n_done = sum(row[1] == "done" for row in table(out, "summary.csv"))
    assert n_done >= 1
    events = []
    summary = drain(on_cluster(local_cluster, tiny_model, files(folder), out, resume=True), events.append)
    assert any(isinstance(event, Message) and event.text.startswith(f"resuming: {n_done} ") for event in events)
    assert [path.name for path in summary.done] == ["odd 0.tif", "odd 1.tif", "odd 2.tif"]
    assert "not a result of this program" in summary.failed[0][1]
    assert (out / "odd 3_labels.tif").read_text() == "my own"
    assert not (out / "unfinished.jsonl").exists()


def test_a_killed_worker_costs_no_image(local_cluster, tiny_model, folder, tmp_path):
    with distributed.Client(local_cluster) as client:
        workers = client.run(os.getpid)
    steps = on_cluster(local_cluster, tiny_model, files(folder), tmp_path / "out")
    event = next(steps)
    while not isinstance(event, Progress):
        event = next(steps)
    os.kill(next(iter(workers.values())), signal.SIGKILL)
    summary = drain(steps)
    assert len(summary.done) == 4
    assert not summary.failed


def deadly(model, path, output, config, options):
    """Dies with its worker at one image, as where memory runs out."""
    if path.name == "odd 1.tif":
        os._exit(1)
    return ORIGINAL(model, path, output, config, options)


ORIGINAL = cluster._detect_file


def test_a_image_that_kills_its_workers_fails_alone(local_cluster, tiny_model, folder, tmp_path, monkeypatch):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    monkeypatch.setattr(cluster, "_detect_file", deadly)
    monkeypatch.setattr(local_cluster.scheduler, "allowed_failures", 1)
    try:
        summary = drain(on_cluster(local_cluster, tiny_model, files(folder), tmp_path / "out"))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert sorted(path.name for path in summary.done) == ["odd 0.tif", "odd 2.tif", "odd 3.tif"]
    ((path, reason),) = summary.failed
    assert path.name == "odd 1.tif"
    assert reason == cluster._KILLED_WORKERS
    assert summary.to_repeat == (path,)
    assert [row[:2] for row in table(tmp_path / "out", "summary.csv")[1:3]] == [
        ["odd 0.tif", "done"],
        ["odd 1.tif", "failed"],
    ]


def test_images_that_shared_a_dying_worker_are_tried_alone(tiny_model, folder, tmp_path, monkeypatch):
    """Four threads of one process: whatever kills it has been beside all the others each time."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(cluster, "_detect_file", deadly)
    one_process = {"n_workers": 1, "threads_per_worker": 4, "processes": True, "memory_limit": None}
    events = []
    try:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 0}),
            distributed.LocalCluster(dashboard_address=None, **one_process) as crowded,
        ):
            summary = drain(on_cluster(crowded, tiny_model, files(folder), tmp_path / "out"), events.append)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert [path.name for path in summary.done] == ["odd 0.tif", "odd 2.tif", "odd 3.tif"]
    assert [path.name for path, _ in summary.failed] == ["odd 1.tif"]
    assert events[-1] == Progress(PHASE, 4, 4)
    assert any(isinstance(event, Message) and event.text.startswith("4 images lost") for event in events)


@pytest.fixture
def remote(tmp_path):
    """A scheduler and a worker as processes of their own; the scheduler can be killed."""
    file = tmp_path / "scheduler.json"
    dask_command = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([*dask_command, "scheduler", *place, "--port", "0", "--host", "127.0.0.1"], **quiet)
    worker = subprocess.Popen([*dask_command, "worker", *place, "--no-nanny", "--death-timeout", "30"], **quiet)
    try:
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(1, timeout=60)
            address = client.scheduler.address
        yield scheduler, address
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def test_what_was_done_is_told_when_the_scheduler_goes_away(remote, tiny_model, folder, tmp_path):
    scheduler, address = remote
    steps = detect_on_cluster_steps(tiny_model, files(folder), tmp_path / "out", CONFIG, address, device="cpu")
    event = next(steps)
    while not (isinstance(event, Progress) and event.done):
        event = next(steps)
    scheduler.kill()
    summary = drain(steps)
    assert summary.done
    assert len(summary.done) + len(summary.failed) == 4
    assert {reason for _, reason in summary.failed} <= {cluster._NO_SCHEDULER}
    assert summary.to_repeat == tuple(path for path, _ in summary.failed)
    assert len(table(tmp_path / "out", "summary.csv")) == 5


def test_a_stop_keeps_what_is_done(local_cluster, tiny_model, folder, tmp_path):
    steps = on_cluster(local_cluster, tiny_model, files(folder), tmp_path / "out")
    answer = None
    try:
        while True:
            event = steps.send(answer)
            is_on = isinstance(event, Progress) and event.done > 0
            answer = FINISH if is_on else None
    except StopIteration as stop:
        summary = stop.value
    assert summary.was_stopped
    assert 0 < len(summary.done) < 4
    assert (tmp_path / "out" / "summary.csv").exists()


def test_a_scheduler_that_is_not_there_is_told(tiny_model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(UFlowError, match=r"'tcp://127\.0\.0\.1:9'"):
        drain(
            detect_on_cluster_steps(
                tiny_model, files(folder), tmp_path / "out", CONFIG, "tcp://127.0.0.1:9", device="cpu"
            )
        )


# What is no scheduler


@pytest.fixture(params=["dashboard", "silent", "garbage"])
def other_server(request):
    """A server that is no scheduler: it answers in HTTP, never, or with nonsense."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            if request.param == "dashboard":
                self.request.recv(1000)
                self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif request.param == "garbage":
                self.request.sendall(b"\x01" * 4000)
            stop.wait(10)

    stop = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        stop.set()
        server.shutdown()


def test_a_server_that_is_no_scheduler_is_refused_in_time(other_server, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 1)
    start = time.monotonic()
    with pytest.raises(UFlowError, match=r"no scheduler of dask.distributed at 'tcp://127.0.0.1:\d+'.*dashboard"):
        cluster._connect(cluster._distributed(), other_server)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("address", ["", "nonsense", "http://localhost:8787", "tcp://localhost:99999999", "tcp://[::"])
def test_a_malformed_address_is_refused(address, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 1)
    with pytest.raises(UFlowError, match=r"no scheduler of dask.distributed at"):
        cluster._connect(cluster._distributed(), address)
