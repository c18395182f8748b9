"""The folder where artifacts live: `<workspace>/<pipeline>/<stage>/`, complete by its manifest.

An artifact of other settings is set aside under `.previous/`, never overwritten, and comes back
when its settings do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaepipe import __version__, files
from vaepipe.errors import UserError

MANIFEST = "manifest.json"
STARTED = "started.json"


def local_folder(output: str) -> Path:
    """A folder that is written to, whole.

    Raises:
        UserError: it is a URI.
    """
    if "://" in output:
        advice = "Leave `file://` away" if output.startswith("file://") else "Copy it from there"
        raise UserError(
            f"output '{output}': what we write goes to a folder of this machine or of a shared "
            f"file system, for renames to be whole. {advice}."
        )
    return Path(output).absolute()


class Workspace:
    """Artifacts of one pipeline.

    Args:
        root: the workspace; a local or shared filesystem.
        name: the pipeline's name.

    Raises:
        UserError: the root is a URI, or cannot be a folder.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        """Nothing is created until something is written."""
        if "://" in str(root):
            raise UserError(
                f"workspace '{root}': expected a folder on a local or shared filesystem, got a "
                "URI. Mount the store, or read from it by URI."
            )
        self.root = Path(root).expanduser().absolute()
        self.home = self.root / name
        if self.home.exists() and not self.home.is_dir():
            raise UserError(f"{self.home} is a file; choose another --workspace.")

    def folder(self, stage: str) -> Path:
        """Where a stage's artifact is."""
        return self.home / stage

    def find(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a complete artifact with this fingerprint, set aside or not."""
        for folder in (self.folder(stage), self._aside(stage, fingerprint)):
            path = folder / MANIFEST
            if path.exists():
                manifest = files.read_json(path)
                if manifest["fingerprint"] == fingerprint:
                    return manifest
        return None

    def prepare(self, stage: str, fingerprint: str, identity: str) -> Path:
        """The stage's folder, ready to work in; what was cut off with these settings is kept.

        Args:
            stage: its name.
            fingerprint: of settings and inputs.
            identity: the fingerprint without budgets: work of the same identity can be extended.
        """
        folder = self.folder(stage)
        self.restore(stage, fingerprint)
        started = _started(folder)
        if started and started["identity"] != identity:
            self._set_aside(stage, started["fingerprint"])
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep_temporaries(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        files.write_json(folder / STARTED, {"fingerprint": fingerprint, "identity": identity})
        return folder

    def commit(self, stage: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest, which makes the artifact complete."""
        full = {**manifest, "stage": stage, "vaepipe": __version__, "created": time.time()}
        files.write_json(self.folder(stage) / MANIFEST, full)
        return full

    def restore(self, stage: str, fingerprint: str) -> bool:
        """Bring back an artifact that was set aside, if it is the one that is wanted."""
        kept, folder = self._aside(stage, fingerprint), self.folder(stage)
        started = _started(folder)
        if not kept.exists() or (started and started["fingerprint"] == fingerprint):
            return False
        if started:
            self._set_aside(stage, started["fingerprint"])
        kept.rename(folder)
        return True

    def record(self, stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `run.json`."""
        self.home.mkdir(parents=True, exist_ok=True)
        files.write_json(self.home / "run.json", {"stages": dict(stages), "vaepipe": __version__})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time for each pipeline of a workspace.

        Raises:
            UserError: another process is running it.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise UserError(
                    f"{self.home} is in use by process {file.read() or '?'}: wait for it, or "
                    "choose another --workspace."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _aside(self, stage: str, fingerprint: str) -> Path:
        return self.home / ".previous" / f"{stage}-{fingerprint[:12]}"

    def _set_aside(self, stage: str, fingerprint: str) -> None:
        target = self._aside(stage, fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        self.folder(stage).rename(target)


def _started(folder: Path) -> dict[str, Any] | None:
    """What a stage folder was started for; a folder without it is nobody's and is left alone."""
    path = folder / STARTED
    if path.exists():
        return files.read_json(path)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and was not made by a run. Move it away, or choose another "
            "--workspace."
        )
    return None
