"""What the documents say is true of the program: files parse, commands exist, code runs."""

import re
import shlex
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
import yaml

from vaepipe import cli, registry
from vaepipe.core import SUPPORTS, DataSpec, Objective, Prior
from vaepipe.pipeline import config
from vaepipe.pipeline.settings import KINDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), flags=re.M | re.S)
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


def every(language: str) -> list:
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, text in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("text", every("yaml"))
def test_every_pipeline_in_the_documents_parses(text, tmp_path):
    """Whole files are read as files; a piece of one at least is YAML."""
    if "version:" not in text:
        assert yaml.safe_load(text)
        return
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    assert config.read(file).stages


@pytest.mark.parametrize("text", every("sh"))
def test_every_command_in_the_documents_exists(text):
    """Commands and options of `vaepipe`, targets of `make`, files in the repository."""
    makefile = (ROOT / "Makefile").read_text()
    for line in text.replace("\\\n", " ").splitlines():
        words = [w for w in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", w)]
        if words[0] == "make":
            assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in words[1:])
        elif words[0] == "vaepipe":
            check_command(words[1:])


def check_command(words: list[str]) -> None:
    """Parse the words as `vaepipe` would, without running anything."""
    context = click.Context(cli.root)
    name, command, rest = cli.root.resolve_command(context, words)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, list(rest), parent=context)
    assert all((ROOT / word).exists() for word in rest if word.startswith("pipelines/"))


def test_every_command_of_the_program_is_in_the_readme():
    """The table of commands is complete and names no other."""
    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"`vaepipe ([a-z]+)", table)) == set(cli.COMMANDS)


@pytest.mark.parametrize("text", every("python"))
def test_components_in_the_documents_are_components(text):
    """Each listed class can be built and does what its base class promises."""
    if "class " not in text or "vaepipe_student_t" in text:
        compile(text, "block", "exec")
        return
    space: dict = {}
    exec(text, space)
    made = [v for v in space.values() if isinstance(v, type) and v.__module__ == "builtins"]
    (cls,) = made
    if issubclass(cls, Prior):
        z = cls((3,), DataSpec((4,), SUPPORTS["boolean"], 10))(None).z
        assert z.event_shape == (3,)
    else:
        assert issubclass(cls, Objective)
        assert cls().phases()


def test_every_runtime_dependency_has_its_reason():
    """`docs/dependencies.md` has a row for each requirement, and none besides."""
    required = {re.match(r"[a-z0-9-]+", r).group() for r in PROJECT["project"]["dependencies"]}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert set(re.findall(r"^\| ([a-z0-9-]+) \|", text, flags=re.M)) == required


def test_every_stage_and_field_is_in_the_reference():
    """`docs/pipeline-file.md` names each field under its kind of stage."""
    text = (ROOT / "docs" / "pipeline-file.md").read_text()
    for kind, model in KINDS.items():
        section = text.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
        for name in model.model_fields:
            word = name.rstrip("_")
            assert word == "kind" or f"`{word}`" in section, f"{kind}: {word}"


def test_every_built_in_component_is_in_the_changelog():
    """What a release has is said in its notes."""
    text = (ROOT / "CHANGELOG.md").read_text()
    for group in ("networks", "families", "priors", "likelihoods", "objectives", "datasets"):
        for point in entry_points(group=f"vaepipe.{group}"):
            if point.dist is not None and point.dist.name == "vaepipe":
                assert f"`{point.name}`" in text, point.name


DECLARED = [
    pytest.param(group, name, id=f"{group}-{name}")
    for file in (ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml")))
    for group, points in tomllib.loads(file.read_text())["project"]["entry-points"].items()
    for name in points
]


def rows(text: str, heading: str) -> dict[str, str]:
    """The rows of the tables under a heading, by the name that they begin with."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(?!type`)(\w+)` \|(.*)$", section, flags=re.M))


@pytest.mark.parametrize(("group", "name"), DECLARED)
def test_every_component_of_the_repository_has_its_line(group, name):
    """`docs/components.md` names it under its group, with its options, and the README names it."""
    group = group.removeprefix("vaepipe.")
    text = (ROOT / "docs" / "components.md").read_text()
    heading = "Computes and trackers" if group in ("computes", "trackers") else group.title()
    listed = rows(text, heading)
    assert name in listed
    if heading == group.title():
        assert f"`{name}`" in (ROOT / "README.md").read_text()
        known = [point.name for point in entry_points(group=f"vaepipe.{group}")]
        if name in known:  # a plugin need not be installed where the documents are read
            options = registry.options_signature(registry.load(group, name))
            shown = re.findall(r"`(\w+)`", listed[name].rpartition(" | ")[2])
            assert shown == list(options)


def test_every_component_that_is_listed_is_declared():
    """The page of components names no other."""
    text = (ROOT / "docs" / "components.md").read_text()
    for group in ("networks", "families", "priors", "likelihoods", "objectives", "datasets"):
        declared = {p.values[1] for p in DECLARED if p.values[0] == f"vaepipe.{group}"}
        assert set(rows(text, group.title())) == declared


def test_every_recipe_is_in_the_readme():
    """The table of recipes is complete and names no other."""
    text = (ROOT / "README.md").read_text()
    table = text.partition("| Recipe in `pipelines/` |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, flags=re.M)
    assert sorted(listed) == sorted(file.stem for file in (ROOT / "pipelines").glob("*.yaml"))


@pytest.mark.parametrize("page", [pytest.param(p, id=p.name) for p in PAGES])
def test_links_between_documents_lead_somewhere(page):
    """Relative links and pictures name files of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_a_fresh_machine_is_told_two_commands():
    """The first block after the words is what a new user, and CI, runs."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("fresh machine") :].partition("```sh\n")[2].partition("```")[0]
    assert block.splitlines() == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()
