"""The page: HTML with everything inside it, and the figures as files beside it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import singledispatch
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from vaepipe import __version__, files
from vaepipe.pipeline.report import motion, style, words
from vaepipe.pipeline.report.chapters import chapter, headline
from vaepipe.pipeline.report.provenance import what_ran
from vaepipe.pipeline.report.section import Block, Code, Facts, Motion, Note, Plot, Section, Table

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="vaepipe $version">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p>Quantities are nats per example; log evidence and ELBO are better the higher they are.</p>
<nav>$nav</nav>
</header>
<main>
<div class="tiles">$tiles</div>
$chapters
</main>
<footer>Made by vaepipe $version from the artifacts named above; nothing was computed anew but the
pictures of models.</footer>
</body>
</html>
""")
NUMERIC = re.compile(r"[−∞\d][\d,.%]*( ± [\d,.]+)?( (s|min|h)( \d+ (s|min))?)?|–|NaN|∞|−∞")


def build(folder: Path, artifacts: Sequence[Section], *, title: str | None = None) -> Path:
    """Write `report.html` and each figure as PNG and SVG; the page's path.

    Args:
        folder: where to write; it exists.
        artifacts: what to show, in this order.
        title: heading of the page; by default the name of the folder above, the pipeline's.
    """
    keys = unique([slug(section.name) for section in artifacts])
    with style.look():
        parts = [
            _chapter(folder, key, section) for key, section in zip(keys, artifacts, strict=True)
        ]
        last = "".join(_html(block) for block in what_ran(artifacts))
    parts.append(f'<section id="what-ran">\n<h2>What ran</h2>\n{last}</section>')
    named = escape(words.plain(title or folder.absolute().parent.name, 120))
    links = [
        *zip(keys, (section.name for section in artifacts), strict=True),
        ("what-ran", "what ran"),
    ]
    page = PAGE.substitute(
        version=__version__,
        title=named,
        style=resources.files(__package__ or "").joinpath("page.css").read_text(encoding="utf-8"),
        nav=" ".join(f'<a href="#{key}">{_text(name)}</a>' for key, name in links),
        tiles="".join(_tile(*pair) for section in artifacts for pair in headline(section)),
        chapters="\n".join(parts),
    )
    with files.whole(folder / "report.html") as draft:
        draft.write_text(page, encoding="utf-8")
    return folder / "report.html"


def slug(name: str) -> str:
    """A name for files and anchors.

    Example:
        >>> slug("Tune <b>2</b>"), slug("<>")
        ('tune-b-2-b', 'stage')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "stage"


def unique(names: Sequence[str]) -> list[str]:
    """The names, those that repeat with a number.

    Example:
        >>> unique(["a", "b", "a", "what-ran"])
        ['a', 'b', 'a-2', 'what-ran-2']
    """
    made = ["what-ran"]
    for name in names:
        numbered = (f"{name}-{n}" if n > 1 else name for n in itertools.count(1))
        made.append(next(candidate for candidate in numbered if candidate not in made))
    return made[1:]


def _chapter(folder: Path, key: str, section: Section) -> str:
    blocks = chapter(section)
    plots = [block for block in blocks if isinstance(block, Plot | Motion)]
    figures = "".join(_figure(folder, f"{key}-{plot.key}", plot, section.name) for plot in plots)
    gallery = f'<div class="figures">\n{figures}</div>\n' if figures else ""
    facts = "".join(_html(b) for b in blocks if isinstance(b, Facts | Note))
    tables = "".join(_html(b) for b in blocks if isinstance(b, Table | Code))
    heading = f"<h2>{_text(section.name)}<small>{section.kind}</small></h2>"
    return f'<section id="{key}">\n{heading}\n{facts}{gallery}{tables}</section>'


def _figure(folder: Path, name: str, plot: Plot | Motion, stage: str) -> str:
    """Write a figure's files; the figure as a part of the page."""
    says = f"{plot.title}, {stage}. {plot.caption}"
    if isinstance(plot, Motion):
        moving = plot.movement
        drawing = style.Drawing(motion.svg(moving), motion.png(moving))
        picture = motion.html(moving, name, says)
    else:
        drawing = style.draw(plot.figure)
        picture = style.inline(drawing.svg, name, says)
    for suffix, content in (("svg", drawing.svg), ("png", drawing.png)):
        (folder / f"{name}.{suffix}").write_bytes(content)
    return (
        f"<figure>\n<figcaption><b>{_text(plot.title)}</b><span>{_text(plot.caption)}</span>"
        f'</figcaption>\n{picture}\n<p class="files"><a href="{name}.png">PNG</a> '
        f'<a href="{name}.svg">SVG</a></p>\n</figure>\n'
    )


@singledispatch
def _html(block: Block) -> str:
    raise TypeError(f"no HTML for {type(block).__name__}")


@_html.register
def _(block: Facts) -> str:
    pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in block.pairs.items())
    return f"<dl>{pairs}</dl>\n"


@_html.register
def _(block: Note) -> str:
    return f'<p class="note">{_text(block.text)}</p>\n'


@_html.register
def _(block: Code) -> str:
    return f"<h3>{_text(block.title)}</h3>\n<pre>{escape(block.text)}</pre>\n"


@_html.register
def _(block: Table) -> str:
    kinds = [_is_numeric([row[i] for row in block.rows]) for i in range(len(block.head))]
    head = "".join(_cell("th", text, n) for text, n in zip(block.head, kinds, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell("td", t, n) for t, n in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in block.rows
    )
    note = f'<p class="note">{_text(block.note)}</p>\n' if block.note else ""
    return (
        f"<h3>{_text(block.title)}</h3>\n"
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n'
        f"</table></div>\n{note}"
    )


def _cell(tag: str, text: str, numeric: bool) -> str:
    return f"<{tag}{' class=n' if numeric else ''}>{_text(text)}</{tag}>"


def _is_numeric(cells: Sequence[str]) -> bool:
    return bool(cells) and all(NUMERIC.fullmatch(cell) for cell in cells)


def _tile(value: str, what: str) -> str:
    return f"<div><b>{_text(value)}</b><span>{_text(what)}</span></div>"


def _text(value: str) -> str:
    return escape(words.plain(value, 400))
