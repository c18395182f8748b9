"""Finding models by their URIs, and the registry that gives them names."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import mlflow
import mlflow.artifacts
from mlflow.exceptions import MlflowException

from vaepipe import files
from vaepipe.errors import UserError, did_you_mean
from vaepipe.tracking.address import is_database
from vaepipe.tracking.store import EXISTS, MISSING, Store, reached

CARD = "model.json"
"""The file that makes a folder a bundle (`vaepipe.training.bundle.CARD`, which needs torch)."""
VERSIONS = "mlflow.modelVersions"
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
LOGGED = re.compile(r"models:/(m-[\w-]+)")
_default_uri = threading.Lock()


class Source(NamedTuple):
    """Where a model's files are, and which logged model of which run it is, if it is one."""

    location: str
    model_id: str | None = None
    run_id: str | None = None


@final
class Catalog:
    """The models of a store.

    Args:
        store: connected.
        cache: a folder for bundles that were fetched from elsewhere.
    """

    def __init__(self, store: Store, cache: Path) -> None:
        """Nothing is read yet."""
        self.uri, self.client, self.cache = store.uri, store.client, cache

    def register(
        self, model_uri: str, name: str, alias: str | None, tags: Mapping[str, str]
    ) -> str:
        """The version of a model in the registry, a new one only if it has none."""
        check_alias(alias)
        source = self.find(model_uri)
        if source.model_id is None:
            raise UserError(f"{model_uri} is no logged model of this store, so it has no version.")
        with reached(self.uri):
            self._ensure(name)
            number = self._version_of(name, source) or self._new_version(name, source)
            for key, value in tags.items():
                self.client.set_model_version_tag(name, number, key, value)
            if alias is not None:
                self.client.set_registered_model_alias(name, alias, number)
        return number

    def promote(self, name: str, number: str, alias: str) -> str | None:
        """Let an alias point to a version; the version it pointed to before."""
        check_alias(alias)
        with reached(self.uri):
            self._by_version(name, number)
            before = self.client.get_registered_model(name).aliases.get(alias)
            self.client.set_registered_model_alias(name, alias, number)
        return None if before is None else str(before)

    def fetch(self, model_uri: str) -> Path:
        """A local folder with the bundle; files that are on this machine are not copied."""
        source = self.find(model_uri)
        with reached(self.uri):
            folder = self._local(source)
        cards = sorted(folder.rglob(CARD), key=lambda path: len(path.parts))
        if not cards:
            raise UserError(f"{model_uri} holds no vaepipe bundle: no {CARD} in its files.")
        return cards[0].parent

    def pinned(self, uri: str) -> str:
        """`models:/name/version` of an alias or of `latest`, `models:/m-…` of a run's model."""
        match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/latest)", uri)
        if match is None:
            found = self.find(uri)
            return f"models:/{found.model_id}" if uri.startswith("runs:/") and found[1] else uri
        name, alias = match.groups()
        with reached(self.uri):
            known, model = self._versions(name), self.client.get_registered_model(name)
        number = model.aliases[alias] if alias else max(known, key=int)
        return f"models:/{name}/{number}"

    def datasets(self, run_id: str) -> dict[str, str]:
        """Names and source URIs of what a run logged as its inputs.

        Raises:
            UserError: there is no such run.
        """
        with reached(self.uri):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                raise _missing(error, f"no run '{run_id}'") from error
        logged = run.inputs.dataset_inputs if run.inputs else []
        sources = {each.dataset.name: json.loads(each.dataset.source) for each in logged}
        return {name: source.get("uri") or source["url"] for name, source in sources.items()}

    def find(self, uri: str) -> Source:
        """Resolve `models:/m-…`, `models:/name/version`, `models:/name@alias`, `runs:/id/name`.

        Raises:
            UserError: there is none; the message names what there is.
        """
        forms = {
            LOGGED.pattern: self._by_id,
            r"models:/([^/@]+)@([^/@]+)": self._by_alias,
            r"models:/([^/@]+)/(\d+|latest)": self._by_version,
            r"runs:/(\w+)(?:/(.+))?": self._by_run,
        }
        for form, look in forms.items():
            match = re.fullmatch(form, uri)
            if match:
                with reached(self.uri):
                    return look(*match.groups())
        raise UserError(
            f"'{uri}' is no model URI. Use models:/name/version, models:/name@alias, "
            "models:/m-<id>, runs:/<run id>, or a bundle's folder."
        )

    def _by_id(self, model_id: str) -> Source:
        try:
            model = self.client.get_logged_model(model_id)
        except MlflowException as error:
            raise _missing(error, f"no logged model '{model_id}'") from error
        return Source(model.artifact_location, model_id, model.source_run_id)

    def _by_version(self, name: str, number: str) -> Source:
        known = self._versions(name)
        found = known.get(max(known, key=int, default="") if number == "latest" else number)
        if found is None:
            offer = ", ".join(sorted(known, key=int)) or "none"
            raise UserError(f"the model '{name}' has no version {number}. Versions: {offer}.")
        return self._source(found)

    def _by_alias(self, name: str, alias: str) -> Source:
        known = self._versions(name)
        aliases = self.client.get_registered_model(name).aliases
        if alias not in aliases:
            offer = ", ".join(f"{a} (version {v})" for a, v in sorted(aliases.items())) or "none"
            near = did_you_mean(alias, aliases)
            raise UserError(f"the model '{name}' has no alias '{alias}'.{near} Aliases: {offer}.")
        return self._source(known[str(aliases[alias])])

    def _by_run(self, run_id: str, name: str | None) -> Source:
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            raise _missing(error, f"no run '{run_id}'") from error
        outputs = run.outputs.model_outputs if run.outputs else []
        models = [self.client.get_logged_model(output.model_id) for output in outputs]
        for model in reversed(models):
            if name in (None, "model", model.name):
                return Source(model.artifact_location, model.model_id, run_id)
        if name is None:
            raise UserError(f"the run '{run_id}' ({run.info.run_name}) logged no model.")
        return Source(f"{run.info.artifact_uri}/{name}")

    def _source(self, entry: Any) -> Source:
        """Where the files of a version are."""
        match = LOGGED.fullmatch(entry.source or "")
        if match:
            return self._by_id(match[1])
        return Source(self.client.get_model_version_download_uri(entry.name, entry.version))

    def _versions(self, name: str) -> dict[str, Any]:
        try:
            self.client.get_registered_model(name)
        except MlflowException as error:
            names = [model.name for model in self.client.search_registered_models()]
            offer = ", ".join(names) or "none"
            near = did_you_mean(name, names)
            what = f"no registered model '{name}'.{near} Registered: {offer}"
            raise _missing(error, what) from error
        found = self.client.search_model_versions(f"name = '{name}'")
        return {str(entry.version): entry for entry in found}

    def _ensure(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code not in EXISTS:
                raise

    def _version_of(self, name: str, source: Source) -> str | None:
        wanted = f"models:/{source.model_id}"
        numbers = [n for n, entry in self._versions(name).items() if entry.source == wanted]
        return min(numbers, key=int, default=None)

    def _new_version(self, name: str, source: Source) -> str:
        with _as_default(self.uri):
            entry = self.client.create_model_version(
                name, f"models:/{source.model_id}", run_id=source.run_id, model_id=source.model_id
            )
        self._list_version(str(source.model_id), {"name": name, "version": int(entry.version)})
        return str(entry.version)

    def _list_version(self, model_id: str, entry: Mapping[str, Any]) -> None:
        """Tell the model's page of its version; a server has done so, a database has not."""
        tags = self.client.get_logged_model(model_id).tags
        known = json.loads(tags.get(VERSIONS, "[]"))
        if entry not in known:
            listed = json.dumps([*known, entry])
            self.client.set_logged_model_tags(model_id, {VERSIONS: listed})

    def _local(self, source: Source) -> Path:
        if source.location.startswith(("/", "file:")):
            folder = Path(source.location.removeprefix("file://"))
            if not folder.is_dir():
                raise UserError(f"the files of the model are gone: there is no {folder}.")
            return folder
        target = self.cache / (source.model_id or files.digest(source.location)[:32])
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._download(source, target)
        return target

    def _download(self, source: Source, target: Path) -> None:
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
        try:
            where = mlflow.artifacts.download_artifacts(
                artifact_uri=source.location, dst_path=str(draft), tracking_uri=self.uri
            )
            with contextlib.suppress(OSError):  # another process was faster
                Path(where).rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def check_alias(alias: str | None) -> None:
    """Refuse the aliases that MLflow keeps for itself.

    Raises:
        UserError: `latest`, or a `v` and a number.
    """
    if alias is not None and RESERVED.fullmatch(alias):
        raise UserError(
            f"MLflow reserves the alias '{alias}'. Name a role, such as 'challenger' or 'champion'."
        )


@contextlib.contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """MLflow's SQL registry resolves `models:/m-…` through the process-wide URI; lend it ours."""
    if not is_database(uri):
        yield
        return
    with _default_uri:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # pyright: ignore[reportArgumentType]  # None unsets


def _missing(error: MlflowException, message: str) -> Exception:
    return UserError(f"{message}.") if error.error_code in MISSING else error
