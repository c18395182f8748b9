"""A movement as an animation without a script: CSS shows one epoch after the other."""

from __future__ import annotations

import io
from html import escape

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vaepipe.pipeline.report import movement as moves
from vaepipe.pipeline.report import style
from vaepipe.pipeline.report.movement import Movement

SECONDS = 0.55
"""How long an epoch is seen."""
HELD = 4
"""The last epoch is seen this many times as long."""
DOTS = (
    "{0} .frame path{{fill:none;stroke-width:4;stroke-linecap:round;stroke-opacity:.6}}"
    "{0} .frame text{{font:bold 11px 'DejaVu Sans',system-ui,sans-serif;text-anchor:middle;"
    "dominant-baseline:central;paint-order:stroke;stroke:{1};stroke-width:3px}}"
    "{0} .frame .epoch{{font-weight:normal;font-size:9px;text-anchor:start;fill:{2};"
    "dominant-baseline:auto;stroke:none}}"
)


def svg(movement: Movement) -> bytes:
    """An animated drawing that needs nothing else; the last epoch where nothing may move."""
    drawn, frames = _parts(movement)
    rules = DOTS.format("svg", style.PAPER, style.INK) + _rules("svg", "f", len(frames))
    return drawn.replace("</svg>", f"<style>{rules}</style>{''.join(frames)}</svg>").encode()


def html(movement: Movement, key: str, title: str) -> str:
    """The drawing in a page, below buttons that play it or show one epoch: radio buttons, no code.

    Args:
        movement: what moves.
        key: unique on the page.
        title: what a reader who cannot see it is told.
    """
    drawn, frames = _parts(movement)
    rules = (
        DOTS.format(f"#{key}", "var(--paper)", "var(--ink)")
        + _rules(f"#{key}", key, len(frames), f"#{key}-play:checked~svg")
        + "".join(f"#{key}-{n}:checked~svg .f{n}{{visibility:visible}}" for n in range(len(frames)))
    )
    inline = style.inline(drawn.encode(), f"{key}-drawing", title)
    inline = inline.replace("</svg>", f"<style>{rules}</style>{''.join(frames)}</svg>")
    return f'<div class="motion" id="{key}">\n{_buttons(movement, key)}\n{inline}\n</div>'


def png(movement: Movement) -> bytes:
    """An animated PNG; a viewer that does not animate shows the last epoch."""
    shown = [_pixels(made) for made in moves.pictures(movement)]
    times = [round(1000 * SECONDS)] * (len(shown) - 1) + [round(1000 * SECONDS * HELD)]
    file = io.BytesIO()
    shown[-1].save(file, "PNG", save_all=True, append_images=shown, default_image=True,
                   duration=[0, *times], loop=0)  # fmt: skip
    return file.getvalue()


def _parts(movement: Movement) -> tuple[str, list[str]]:
    made, ax = moves.stage(movement)
    frames = moves.marks(movement, made, ax)
    return style.draw(made).svg.decode(), frames


def _buttons(movement: Movement, key: str) -> str:
    play = _button(key, "play", "▶ Play", checked=True)
    return play + "".join(
        _button(key, str(n), str(epoch), says=f"epoch {epoch}")
        for n, epoch in enumerate(movement.epochs)
    )


def _button(key: str, name: str, text: str, *, says: str = "", checked: bool = False) -> str:
    label = f' aria-label="{escape(says)}"' if says else ""
    on = " checked" if checked else ""
    return (
        f'<input type="radio" name="{key}" id="{key}-{name}"{label}{on}>'
        f'<label for="{key}-{name}">{escape(text)}</label>'
    )


def _rules(scope: str, name: str, count: int, playing: str | None = None) -> str:
    """Frames are hidden and take turns; where motion is unwanted, or on paper, the last is seen."""
    playing = playing or scope
    slots = count - 1 + HELD
    turn = f"{slots * SECONDS:.2f}s step-end infinite"
    return (
        _seen(f"{name}-turn", 1 / slots)
        + _seen(f"{name}-last", HELD / slots)
        + f"{scope} .frame{{visibility:hidden}}{playing} .frame{{animation:{name}-turn {turn}}}"
        + "".join(f"{playing} .f{n}{{animation-delay:{n * SECONDS:.2f}s}}" for n in range(count))
        + f"{playing} .f{count - 1}{{animation-name:{name}-last}}"
        + f"@media (prefers-reduced-motion:reduce){{{playing} .frame{{animation:none}}"
        f"{playing} .f{count - 1}{{visibility:visible}}}}"
        + f"@media print{{{scope} .frame{{animation:none!important;visibility:hidden!important}}"
        f"{scope} .f{count - 1}{{visibility:visible!important}}}}"
    )


def _seen(name: str, share: float) -> str:
    """Visible for the first share of a period."""
    return f"@keyframes {name}{{0%{{visibility:visible}}{100 * share:.4f}%{{visibility:hidden}}}}"


def _pixels(made: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
