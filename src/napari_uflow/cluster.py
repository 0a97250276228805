"""Many pictures on many machines: the batch on a cluster of dask.distributed that is already there."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_uflow.batch import PHASE, BatchSummary, Collected, FileResult, detect_file_steps, prepare
from napari_uflow.config import DetectionConfig
from napari_uflow.devices import choose_device
from napari_uflow.errors import UFlowError
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import FINISH, Message, Progress, Steps, drain, or_stop
from napari_uflow.wording import counted

__all__ = ["detect_on_cluster_steps"]

_SECONDS_TO_CONNECT = 20
# Between two looks at what is done, at which the job may be stopped.
_SECONDS_BETWEEN = 0.3
_SECONDS_WITHOUT_WORKERS = 60
_DIED = "the workers that took it died, each time: it may need too much memory"
_NO_WORKER = "no worker of the cluster was left"


def detect_on_cluster_steps(
    model: TrainedModel,
    paths: Sequence[Path],
    output: str | Path,
    config: DetectionConfig,
    scheduler: str,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    device: str = "auto",
    weights: str | Path | None = None,
) -> Steps[BatchSummary]:
    """Detect in files as :func:`~napari_uflow.batch.detect_files_steps` does, each file on one of many machines.

    The machines must see the files and the folder under the same names, and have this version of napari-uflow. A
    picture whose worker is lost is given to another one; it fails when that has happened more often than the cluster's
    setting ``distributed.scheduler.allowed-failures`` says (three times by default). The other pictures go on. Where
    several were lost so often, perhaps for being beside the one that killed their workers, each is tried once more by
    itself.

    Parameters
    ----------
    model, paths, output, config, channels, axes, device, weights
        As in :func:`~napari_uflow.batch.detect_files_steps`; the device is that of each worker.
    scheduler : str
        Address of the scheduler, such as "tcp://10.0.0.5:8786".

    Yields
    ------
    Message or Progress
        Where FINISH is sent, what has not begun is called off; the files done so far are kept.

    Returns
    -------
    BatchSummary

    Raises
    ------
    UFlowError
        If the package distributed is missing, the scheduler cannot be reached, or all workers are gone for a minute.
    ConfigError
        If two files would write to the same names.
    """
    try:
        import distributed
    except ImportError as error:
        raise UFlowError("a cluster takes the package distributed: pip install napari-uflow[cluster]") from error
    files, folder = prepare(paths, output)
    # Workers may have another working directory.
    files, folder = [path.absolute() for path in files], folder.absolute()
    yield from or_stop(Message(f"Connecting to {scheduler}"))
    try:
        client = distributed.Client(scheduler, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:  # its timeout is an OSError, a malformed address a ValueError
        raise UFlowError(
            f"there is no scheduler of dask.distributed at '{scheduler}': start one with 'dask scheduler', or check "
            f"the address"
        ) from error
    with client:
        n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        yield from or_stop(Message(f"{counted(n_workers, 'worker')} at {scheduler}"))
        options = {"channels": channels, "axes": axes, "device": device, "weights": weights}
        work = _Work(client, model, (folder, config, options), len(files))
        suspects = yield from work.detect(files)
        if len(suspects) > 1 and not work.was_stopped:
            # Whatever kills a worker takes along what runs beside it: alone it turns out which of them it was.
            yield Message(f"{len(suspects)} pictures lost their workers; they are tried again one by one", warning=True)
            together, suspects = suspects, []
            for path in together:
                suspects += yield from work.detect([path])
        for path in suspects:
            yield from work.add(FileResult(path, reason=_DIED))
        if not work.was_stopped:
            yield Progress(PHASE, len(files), len(files))
    return work.collected.write(folder, was_stopped=work.was_stopped, order=files)


class _Work:
    """The files of one call on their way to the workers and back."""

    def __init__(self, client: Any, model: TrainedModel, arguments: tuple[Any, ...], n_files: int) -> None:
        self._client, self._model, self._arguments, self._n_files = client, pickle.dumps(model), arguments, n_files
        self._shared: Any = None
        self._n_done = 0
        self.collected = Collected()
        self.was_stopped = self._is_abandoned = False

    def add(self, result: FileResult) -> Steps[None]:
        """Take what became of a file."""
        self.collected.add(result)
        self._n_done += 1
        if result.reason:
            yield Message(f"{result.path.name}: {result.reason}", warning=True)

    def detect(self, paths: Sequence[Path]) -> Steps[list[Path]]:
        """Detect in files at the same time; return those whose workers died too often."""
        from distributed import wait

        client = self._client
        suspects: list[Path] = []
        if self.was_stopped:
            return suspects
        if self._is_abandoned:
            for path in paths:
                yield from self.add(FileResult(path, reason=_NO_WORKER))
            return suspects
        if self._shared is None or self._shared.status == "error":  # it was with a worker that died, too
            # The model is the result of a task and not scattered: what was scattered is lost with its workers.
            self._shared = client.submit(pickle.loads, self._model, pure=False)
        waiting = {
            client.submit(_detect_file, self._shared, path, *self._arguments, pure=False): path for path in paths
        }
        seconds_alone = 0.0
        while waiting:
            if (yield Progress(PHASE, self._n_done, self._n_files)) is FINISH:
                self.was_stopped = True
                client.cancel(list(waiting))
                break
            finished = [future for future in waiting if future.done()]
            for future in finished:
                path = waiting.pop(future)
                if _is_lost(future):
                    suspects.append(path)
                else:
                    yield from self.add(_result_of(future, path))
            if finished:
                seconds_alone = 0.0
                continue
            with client.as_current(), suppress(TimeoutError):
                wait(list(waiting), timeout=_SECONDS_BETWEEN, return_when="FIRST_COMPLETED")
            is_alone = not client.scheduler_info(n_workers=-1)["workers"]
            seconds_alone = seconds_alone + _SECONDS_BETWEEN if is_alone else 0.0
            if seconds_alone > _SECONDS_WITHOUT_WORKERS:
                yield Message("all workers of the cluster are gone; what was done is kept", warning=True)
                self._is_abandoned = True
                for path in waiting.values():
                    yield from self.add(FileResult(path, reason=_NO_WORKER))
                break
        return suspects


def _is_lost(future: Any) -> bool:
    """Tell whether a task was given up because its workers died."""
    return type(future.exception()).__name__ == "KilledWorker"


def _result_of(future: Any, path: Path) -> FileResult:
    """Return what a worker made of a file; an error is a reason."""
    error = future.exception()
    if error is None:
        result: FileResult = future.result()
        return result
    if isinstance(error, UFlowError):
        return FileResult(path, reason=str(error))
    return FileResult(path, reason=f"something went wrong on the worker ({type(error).__name__}: {error})")


def _detect_file(
    model: TrainedModel, path: Path, output: Path, config: DetectionConfig, options: dict[str, Any]
) -> FileResult:
    """Detect in one file; runs on a worker, which builds the network once."""
    from distributed import get_worker

    worker = get_worker()
    kept = getattr(worker, "_napari_uflow", None)
    if kept is None or kept[0] is not model:
        kept = (model, model.network(choose_device(options["device"]), options["weights"]))
        worker._napari_uflow = kept
    steps = detect_file_steps(model, kept[1], path, output, config, channels=options["channels"], axes=options["axes"])
    return drain(steps)
