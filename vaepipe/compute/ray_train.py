"""A fit on a cluster: one worker as a plain task, several by Ray Train with torch's DDP."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray.exceptions import RayError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    get_context,
)
from ray.train import report as report_to_train
from ray.train.torch import TorchTrainer, get_device

from vaepipe.compute import jobs, outputs, trials
from vaepipe.compute.base import TrainTask
from vaepipe.compute.ray_connect import STORE, Share
from vaepipe.errors import TrainingError, VaepipeError

RETRIES = 2
"""How often a fit goes on from its checkpoint after a worker died."""


def train(task: TrainTask, share: Share) -> None:
    """Fit one model; the work is done in other processes, which this one only waits for.

    Raises:
        TrainingError: the fit failed.
    """
    data = task.to_dict()
    error: VaepipeError | None
    if task.workers > 1:
        error = _beside(partial(fit_together, data, share))
    else:
        remote = ray.remote(cast(Any, trials.attempt)).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES
        )
        try:
            error = cast(Any, ray.get(remote.remote(data, share.cpus, gpu=share.gpus > 0)))
        except RayError as crash:
            error = died(task, crash)
    if error is not None:
        raise error


def _beside(work: Callable[[], VaepipeError | None]) -> VaepipeError | None:
    """Do it in a thread: in the main one, Ray Train would take Ctrl-C for itself."""
    future: Future[VaepipeError | None] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, daemon=True, name="ray-train").start()
    return future.result()


def fit_together(
    data: Mapping[str, Any], share: Share, callbacks: Sequence[UserCallback] = ()
) -> VaepipeError | None:
    """Launch the workers of a data-parallel fit and wait for them; the error, if there is one."""
    task = TrainTask.from_dict(data)
    with store(task.output) as folder, polling():
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"task": dict(data), "threads": share.cpus},
            scaling_config=ScalingConfig(
                num_workers=task.workers,
                use_gpu=share.gpus > 0,
                resources_per_worker=share.resources,
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=RETRIES),
                callbacks=list(callbacks),
            ),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            return died(task, error)


def died(task: TrainTask, error: Exception) -> VaepipeError:
    """What to raise when Ray gave up: the worker's own error, or its last words."""
    causes = getattr(error, "worker_failures", {}).values()
    own = [cause for cause in causes if isinstance(cause, VaepipeError)]
    words = str(error).strip().splitlines() or [type(error).__name__]
    said = next((line.strip() for line in reversed(words) if line.strip()), "")
    result = own[0] if own else TrainingError(f"{task.name}: a worker failed: {said}")
    outputs.record_failure(task, result, traceback=str(error))
    return result


@contextmanager
def store(output: str) -> Iterator[Path]:
    """An empty folder for Ray's own files, which goes when the work is over."""
    folder = Path(output) / STORE
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def polling(seconds: float = 0.5) -> Iterator[None]:
    """Let Ray Train look at its workers this often: its two seconds are long for a short fit."""
    name = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(seconds))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _rank(config: Mapping[str, Any]) -> VaepipeError | None:
    """One rank of a fit; a fit that diverged did so on all ranks, and is not tried again."""
    context = get_context()
    rank, task = context.get_world_rank(), TrainTask.from_dict(config["task"])
    torch.set_num_threads(config["threads"])

    def report(metrics: dict[str, float]) -> str | None:
        report_to_train(metrics if rank == 0 else {})
        return outputs.asked_to_stop(task) if rank == 0 else None

    try:
        jobs.train_job(
            task,
            rank=rank,
            world_size=context.get_world_size(),
            device=get_device(),
            report=report,
        )
    except TrainingError as error:
        return error
    return None
