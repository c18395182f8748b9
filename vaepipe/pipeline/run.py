"""Execute a plan: every step that has no complete artifact yet, inputs first."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaepipe import files
from vaepipe.errors import PartialFailure, VaepipeError
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.metrics import unit_of
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.stages import data, encode, evaluate, register, report, sweep, train
from vaepipe.pipeline.workspace import Workspace

RUNNERS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "data": data.run,
    "train": train.run,
    "sweep": sweep.run,
    "evaluate": evaluate.run,
    "encode": encode.run,
    "report": report.run,
    "register": register.run,
}
RUN_ID = "run_id.json"


def run(steps: Sequence[Step], env: Environment) -> dict[str, dict[str, Any]]:
    """Execute the steps; the content of `run.json`.

    Raises:
        PartialFailure: everything ran, but trials or shards failed.
        VaepipeError: a stage failed; what was complete stays complete.
    """
    stages = {step.name: _entry(step, "waiting", env.workspace) for step in steps}
    for step in steps:
        env.screen.stage(step.name, step.settings.kind, "waiting")
    with env.workspace.locked():
        try:
            for step in steps:
                stages[step.name] = _done(step, env) if step.done else _execute(step, env, stages)
                env.workspace.record(stages)
        finally:
            env.workspace.record(stages)
            env.close()
    require_no_failures(steps, env.workspace)
    return stages


def require_no_failures(steps: Sequence[Step], workspace: Workspace) -> None:
    """Raise `PartialFailure` if trials of sweeps failed, in this run or in an earlier one."""
    found = []
    for step in steps:
        manifest = workspace.find(step.name, step.fingerprint)
        counts = manifest["trials"] if manifest and step.settings.kind == "sweep" else {}
        if counts.get("failed"):
            found.append(_failed(step.name, counts, workspace, dependents(step.name, steps)))
    if found:
        raise PartialFailure(" ".join(found))


def dependents(name: str, steps: Sequence[Step]) -> list[str]:
    """Return the stages that use a stage, directly or through others; inputs come first."""
    found = [name]
    for step in steps:
        if not set(found).isdisjoint(step.inputs):
            found.append(step.name)
    return found[1:]


def _failed(
    name: str, counts: Mapping[str, int], workspace: Workspace, dependents: Sequence[str]
) -> str:
    """Say how many trials of a sweep failed, why, and how to fit them once more."""
    folder = workspace.folder(name)
    others = f" and the folders of {', '.join(dependents)}" if dependents else ""
    return (
        f"{counts['failed']} of {sum(counts.values())} trials of '{name}' failed; the column "
        f"`error` of {folder / 'trials.parquet'} says why. Another run does not retry them: change "
        f"their settings, or remove {folder / 'manifest.json'}{others} and run again."
    )


def bring_back(steps: Sequence[Step], workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The content of `run.json` where every step is complete; nothing runs."""
    moved = [workspace.restore(step.name, step.fingerprint) for step in steps]
    stages = {
        step.name: _entry(step, "done", workspace, workspace.find(step.name, step.fingerprint))
        for step in steps
    }
    if any(moved):
        workspace.record(stages)
    return stages


def _done(step: Step, env: Environment) -> dict[str, Any]:
    """A step that is complete already."""
    env.workspace.restore(step.name, step.fingerprint)
    manifest = files.read_json(env.folder(step.name) / "manifest.json")
    env.manifests[step.name] = manifest
    env.screen.stage(step.name, step.settings.kind, "done already")
    return _entry(step, "done", env.workspace, manifest)


def _execute(step: Step, env: Environment, stages: dict[str, Any]) -> dict[str, Any]:
    """Run a step and commit its artifact."""
    kind, begin = step.settings.kind, time.time()
    folder = env.workspace.prepare(step.name, step.fingerprint, step.identity)
    stages[step.name] = _entry(step, "running", env.workspace)
    env.workspace.record(stages)
    env.screen.stage(step.name, kind, "running")
    try:
        content = _call(step, env, folder)
    except BaseException as error:
        status = "failed" if isinstance(error, VaepipeError) else "interrupted"
        stages[step.name] = _entry(step, status, env.workspace) | {"error": str(error)}
        env.screen.stage(step.name, kind, status, str(error))
        raise
    seconds = round(time.time() - begin, 3)
    key = {"kind": kind, "fingerprint": step.fingerprint, "inputs": list(step.inputs)}
    manifest = env.workspace.commit(step.name, {**content, **key, "seconds": seconds})
    env.manifests[step.name] = manifest
    env.screen.stage(step.name, kind, "done", _headline(kind, manifest))
    return _entry(step, "done", env.workspace, manifest)


def _call(step: Step, env: Environment, folder: Path) -> dict[str, Any]:
    """Give a stage its run at the tracker, if it keeps one."""
    runner = RUNNERS[step.settings.kind]
    if "record" not in inspect.signature(runner).parameters:
        return runner(step, env, folder)
    path = folder / RUN_ID
    record = env.record(step, files.read_json(path)["run_id"] if path.exists() else None)
    files.write_json(path, {"run_id": record.id})
    try:
        content = runner(step, env, folder, record)
    except VaepipeError as error:
        record.tags({"vaepipe.error": str(error)[:5000]})
        record.finish("FAILED")
        raise
    except BaseException:
        record.finish("KILLED")
        raise
    record.finish("FINISHED")
    return {**content, "mlflow_run_id": record.id}


def _entry(
    step: Step, status: str, workspace: Workspace, manifest: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A stage in `run.json`."""
    known = manifest or {}
    return {
        "kind": step.settings.kind,
        "status": status,
        "fingerprint": step.fingerprint,
        "artifact": workspace.folder(step.name).as_uri(),
        "mlflow_run_id": known.get("mlflow_run_id"),
        "seconds": known.get("seconds"),
        **({"best": known["best"]} if "best" in known else {}),
    }


def _winner(best: Mapping[str, Any]) -> str:
    """The winner of a sweep by its last number, and whether another trial is as good."""
    shown, unit = best.get("final") or best, unit_of(best["metric"])
    text = f"best {shown['metric']} {shown['value']:.3f} {unit} (trial {best['trial']})"
    second = best.get("runner_up")
    if second is None:
        return text
    value, se = second["difference_to_best"], second["difference_se"]
    error = "" if se is None else f" ± {se:.3f}"
    tie = ", a tie" if second["tie"] else ""
    return f"{text}; next is trial {second['trial']}, {value:+.3f}{error} {unit}{tie}"


def _headline(kind: str, manifest: Mapping[str, Any]) -> str:
    """The one number or place that a reader looks for."""
    if kind == "data":
        return ", ".join(f"{k} {v['rows']:,}" for k, v in manifest["splits"].items())
    if kind == "sweep":
        return _winner(manifest["best"])
    if kind == "evaluate":
        scores = {k: v for k, v in manifest["metrics"].items() if k.endswith("log_evidence")}
        return ", ".join(f"{name} {value:.3f} nats" for name, value in scores.items())
    if kind == "train" and "val/log_evidence" in manifest["metrics"]:
        return f"val/log_evidence {manifest['metrics']['val/log_evidence']:.3f} nats"
    words = {"encode": "rows", "register": "uri", "report": "page"}
    return f"{words[kind]} {manifest[words[kind]]}" if kind in words else ""
