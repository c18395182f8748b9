"""What ran: settings, components and their versions, digests of data, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import yaml

from vaepipe import __version__
from vaepipe.pipeline.report import words
from vaepipe.pipeline.report.section import Block, Code, Facts, Section, Table

ROLES = ("encoder", "family", "prior", "decoder", "likelihood")


def what_ran(sections: Sequence[Section]) -> list[Block]:
    """The last chapter of a page."""
    blocks: list[Block] = [_stages(sections)]
    told = set[str]()
    for section in sections:
        blocks += _settings(section, told)
    return [*blocks, Facts(machine())]


def machine() -> dict[str, str]:
    """Where the page was made."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "vaepipe": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "accelerators": ", ".join(devices) or "none",
    }


def _stages(sections: Sequence[Section]) -> Table:
    head = ("stage", "kind", "finished", "vaepipe", "fingerprint", "data digest", "MLflow model")
    rows = [
        (
            section.name,
            section.kind,
            words.moment(section.manifest.get("created")),
            str(section.manifest.get("vaepipe", words.MISSING)),
            str(section.manifest.get("fingerprint", words.MISSING))[:16],
            _data_digest(section)[:16],
            str(section.manifest.get("model_uri") or words.MISSING),
        )
        for section in sections
    ]
    return Table("Stages", head, rows)


def _settings(section: Section, told: set[str]) -> Iterator[Block]:
    """Settings, and the components of a model that was not told of before."""
    model = section.model
    settings = section.manifest.get("parameters") or section.manifest.get("settings")
    if section.kind == "evaluate":
        names = ("splits", "seed", "measures")
        settings = {n: section.manifest[n] for n in names if n in section.manifest}
    elif settings is None and model is not None:
        settings = model.card.get("settings")
    if model is not None and model.digest not in told:
        told.add(model.digest)
        of_model = f"the model of {section.name}" if section.kind == "evaluate" else section.name
        yield _components(of_model, model.card)
        if section.kind == "evaluate":
            yield from _code(of_model, model.card.get("settings"))
    yield from _code(section.name, settings)


def _code(name: str, settings: Any) -> Iterator[Block]:
    if settings:
        text = yaml.safe_dump(settings, allow_unicode=True, default_flow_style=None, width=100)
        yield Code(f"Settings of {name}", words.lines(text))


def _components(name: str, card: Mapping[str, Any]) -> Table:
    model = card.get("model", {})
    parts = {role: model[role] for role in ROLES if role in model}
    parts |= {role: card[role] for role in ("objective", "dataset") if role in card}
    rows = [
        (
            role,
            words.component({"type": part["type"], **part.get("options", {})}),
            f"{part.get('distribution', '?')} {part.get('version', '')}",
        )
        for role, part in parts.items()
    ]
    return Table(f"Components of {name}", ("role", "component", "installed from"), rows)


def _data_digest(section: Section) -> str:
    card = section.model.card if section.model is not None else {}
    known = {**card, **section.manifest}
    name = "digest" if section.kind == "data" else "data_digest"
    return str(known.get(name) or known.get("input_digest") or words.MISSING)
