"""A fitted model as a folder: names and options, weights, and a memory of what it computed.

    model.json            component types and options, distributions, data, settings
    weights.safetensors   parameters and buffers
    golden.safetensors    an input, a latent, and what the model made of them when it was saved

Loading finds the components by name among the installed distributions, never by a path from the
file, and recomputes the golden outputs. Nothing in it is a pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vaepipe import files, registry
from vaepipe.core import DataSpec, LatentModel, Purpose, build, seeded, stream
from vaepipe.data.lexicon import Lexicon
from vaepipe.errors import BundleError, DataError, UnknownComponent
from vaepipe.registry import PartSpec
from vaepipe.training.checkpoint import load_weights, save_weights, write_tensors

FORMAT = 1
CARD, WEIGHTS, GOLDEN = "model.json", "weights.safetensors", "golden.safetensors"
ROWS = 4
RTOL = 1e-4
"""How far recomputed outputs may be from the golden ones, relative to their size."""


@final
@dataclass(frozen=True)
class Bundle:
    """A model that was loaded from a folder.

    Args:
        path: the folder.
        model: ready to evaluate.
        card: the content of `model.json`.
        digest: SHA-256 over `model.json` and the weights: what the model is called in lineages.
        warnings: what differs from the installation that saved it.
    """

    path: Path
    model: LatentModel
    card: Mapping[str, Any]
    digest: str
    warnings: tuple[str, ...] = ()

    @property
    def data(self) -> DataSpec:
        """What the model's examples are."""
        return DataSpec.from_dict(self.card["data"])

    @property
    def dataset(self) -> PartSpec:
        """The dataset that viewed its training examples."""
        return PartSpec.from_dict(self.card["dataset"])

    @property
    def lexicon(self) -> Lexicon | None:
        """What the integers of its examples say, where they are text."""
        words = self.card.get("lexicon")
        return None if words is None else Lexicon.from_dict(words)

    @property
    def parts(self) -> dict[str, PartSpec]:
        """The components of the model by their role."""
        return _parts(self.card)

    @property
    def requirements(self) -> list[str]:
        """What pip has to install to open the bundle: `name==version`, sorted."""
        parts = [*_parts(self.card).values(), self.dataset, _objective(self.card)]
        return sorted({part.requirement for part in parts})


def save(path: Path, model: LatentModel, card: Mapping[str, Any], golden_x: Tensor) -> None:
    """Write a bundle in one piece.

    Args:
        path: the folder; what is there is replaced.
        model: on the CPU.
        card: JSON data with `model`, `data`, `dataset`, `objective` and whatever else is known.
        golden_x: examples `[n, *shape]`; the first few are remembered.
    """
    model.eval()
    x = golden_x[:ROWS].contiguous()
    z = _latent(model, x)
    golden = {"x": x, "z": z, **_outputs(model, x, z)}
    with files.whole_folder(path) as draft:
        files.write_json(draft / CARD, {"format_version": FORMAT, **card})
        save_weights(draft / WEIGHTS, model)
        write_tensors(draft / GOLDEN, {name: v.contiguous() for name, v in golden.items()})


def load(path: Path, device: torch.device | str = "cpu") -> Bundle:
    """Open a bundle, after making sure that it still computes what it computed.

    Raises:
        BundleError: files are missing or damaged, a component is not installed, or the outputs
            are no longer the same.
    """
    path = Path(path)
    card = _read_card(path)
    parts = _resolve(path, card)
    try:
        model = _build(path, card, parts)
        _verify(path, model)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: a file is missing or damaged: {error}") from error
    warnings = tuple(_differences(_parts(card), parts))
    return Bundle(path, model.to(device), card, digest(path), warnings)


def digest(path: Path) -> str:
    """SHA-256 over card and weights: what a model is called in lineages."""
    return files.digest([files.sha256(path / CARD), files.sha256(path / WEIGHTS)])


def _read_card(path: Path) -> dict[str, Any]:
    files.recover_folder(path)
    if not (path / CARD).is_file():
        raise BundleError(f"{path} is not a model bundle: it has no {CARD}.")
    try:
        card = files.read_json(path / CARD)
    except ValueError as error:
        raise BundleError(f"{path / CARD} is not JSON: {error}") from error
    if not isinstance(card, dict):
        raise BundleError(f"{path / CARD} is damaged: it holds no mapping.")
    version, writer = card.get("format_version"), card.get("vaepipe", "unknown")
    if version != FORMAT:
        raise BundleError(
            f"{path}: format version {version}, this vaepipe reads {FORMAT}: install the version "
            f"of vaepipe that wrote it ({writer})."
        )
    return card


def _resolve(path: Path, card: Mapping[str, Any]) -> dict[str, PartSpec]:
    try:
        return {role: _installed(path, part) for role, part in _parts(card).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path / CARD} is damaged: {error!r}") from error


def _build(path: Path, card: Mapping[str, Any], parts: Mapping[str, PartSpec]) -> LatentModel:
    try:
        data = DataSpec.from_dict(card["data"])
        with seeded(stream(0, Purpose.PLACEHOLDERS)):
            model = build(tuple(card["model"]["latent_shape"]), data, **parts)
    except (KeyError, TypeError, DataError) as error:
        raise BundleError(f"{path / CARD} is damaged: {error!r}") from error
    try:
        load_weights(path / WEIGHTS, model)
    except RuntimeError as error:
        raise BundleError(f"{path}: the weights do not fit the components: {error}") from error
    return model.eval()


def _installed(path: Path, part: PartSpec) -> PartSpec:
    """The same component from the installed distributions."""
    hint = f"pip install '{part.requirement}'"
    try:
        found = registry.part(part.group, part.type, part.options)
    except UnknownComponent as error:
        raise BundleError(f"{path}: it needs {part.group} '{part.type}': {hint}") from error
    if found.distribution != part.distribution:
        raise BundleError(
            f"{path}: its {part.group} '{part.type}' is of {part.distribution}, the installed one "
            f"of {found.distribution}: {hint}"
        )
    return found


def _parts(card: Mapping[str, Any]) -> dict[str, PartSpec]:
    model = card["model"]
    return {role: PartSpec.from_dict(model[role]) for role in model if role != "latent_shape"}


def _objective(card: Mapping[str, Any]) -> PartSpec:
    return PartSpec.from_dict(card["objective"])


def _differences(saved: Mapping[str, PartSpec], found: Mapping[str, PartSpec]) -> Iterator[str]:
    """Distributions whose version is not the one that saved the bundle."""
    pairs = {(saved[role].requirement, found[role].requirement) for role in saved}
    for before, now in sorted(pairs):
        if before != now:
            yield f"saved with {before}, opened with {now}"


@torch.no_grad()
def _latent(model: LatentModel, x: Tensor) -> Tensor:
    """One draw from q(z | x)."""
    with seeded(stream(0, Purpose.GOLDEN_LATENTS)):
        return model.inference(x).sample()


@torch.no_grad()
def _outputs(model: LatentModel, x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Features of x, log p(x | z) and log p(z)."""
    with seeded(stream(0, Purpose.GOLDEN_OUTPUTS)):
        return {
            "features": model.inference.features(x),
            "log_lik": model.generator(z).log_prob(x),
            "log_prior": model.p_z().z.log_prob(z),
        }


def _verify(path: Path, model: LatentModel) -> None:
    golden = load_file(path / GOLDEN)
    for name, value in _outputs(model, golden["x"], golden["z"]).items():
        size = golden[name].abs().max().item()
        if not torch.allclose(value, golden[name], rtol=RTOL, atol=RTOL * size):
            raise BundleError(
                f"{path}: '{name}' of the golden examples is no longer what it was when the model "
                "was saved. The weights or the code of a component have changed: install the "
                f"distributions that {CARD} names."
            )
