# SPDX-License-Identifier: Apache-2.0
"""The images of the tab Edit as HTML: target, edit, reference and heat map, each above a magnified part.

The edited image lies over the target and is hidden while it or the button "Hold to compare" is pressed, by CSS alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..locality import Locality
from .edits import Change, Edited
from .heat import MOST, scale_colours

LAYOUT = """
.card { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 10px 12px !important; }
.card { gap: 8px !important; }
.card .row { gap: 8px; align-items: flex-end; }
.card :is(.block, .form) { border: 0 !important; padding: 0; background: none; box-shadow: none; gap: 8px; }
.card .block { overflow: visible !important; }
.card .block :is(input[type="number"], .wrap) { font-size: 14px; }
.card button.sm { height: 34px; border: 1px solid var(--border-color-primary); font-size: 13px; }
.card button.sm { background: var(--background-fill-primary); }
.card button.sm:hover { background: var(--background-fill-secondary); }
.card :is(.card-number, .card-part) input { height: 32px; }
.neighbours .head, #edit-log-epsilon .tab-like-container { display: none; }
#edit-log-epsilon :is(.min_value, .max_value) { font-size: 0; }
#edit-log-epsilon .min_value::after { content: "0.1"; font-size: 12px; }
#edit-log-epsilon .max_value::after { content: "100"; font-size: 12px; }
#edit-rho .slider_input_container { height: 24px; }
.edit-html .html-container { padding: 0; }
#edit-query .row { align-items: stretch; gap: 20px !important; }
#edit-query:has(.unused) :is(#edit-log-epsilon, #edit-epsilon, #edit-rho) { opacity: 0.5; }
#edit-hint, #edit-hint .html-container { padding: 0; }
#edit-hint p { font-size: 13px; line-height: 1.5; margin: 0; color: var(--body-text-color-subdued); }
#edit-query :is(#edit-strategy, .card-part) input { height: 32px; }
#edit-log-epsilon .slider_input_container { height: 36px; }
#edit-rgb { flex: none; width: auto; min-width: 124px !important; white-space: nowrap; }
#edit-stage { flex-wrap: nowrap; align-items: flex-start; gap: 12px; }
#edit-images { flex: none; width: calc(75% - 3px); }
#edit-heat { flex: none; width: calc(25% - 9px); }
.card .wrap-inner { padding: 0 8px; }
#edit-above { min-height: 28px; align-items: center; flex-wrap: nowrap; }
#edit-message { flex: 1 1 0; }
#edit-look { flex: none; width: auto; }
#edit-look .wrap { align-items: center; }
#edit-look .wrap::before { content: "Magnified part and its reference:"; font-size: 13px; }
#edit-look label { padding: 2px 10px; font-size: 13px; }
#edit-look .wrap { flex-wrap: nowrap; }
#edit-figures { padding-top: 4px; }
"""

CSS = """
p { font-size: 14px; line-height: 1.5; }
.figures { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 12px; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; gap: 6px; height: 24px; font-size: 13px; align-items: baseline; white-space: nowrap; }
figcaption b { font-weight: 600; }
figcaption span { color: var(--body-text-color-subdued); overflow: hidden; text-overflow: ellipsis; }
.frame { position: relative; overflow: hidden; border-radius: 4px; background: var(--background-fill-secondary); }
.frame { aspect-ratio: var(--ratio); margin-bottom: 12px; }
.frame img { position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; user-select: none; }
.zoom img { width: var(--scale); height: var(--scale); left: var(--left); top: var(--top); }
.mark { position: absolute; box-sizing: border-box; border: 1px solid #fffc; outline: 1px solid #0004; }
.mark { pointer-events: none; }
.edit .frame { cursor: pointer; touch-action: manipulation; }
.held { display: none; }
.edit:has(.frame:active, .hold:active) :is(.over, .shown) { visibility: hidden; }
.edit:has(.frame:active, .hold:active) .shown { display: none; }
.edit:has(.frame:active, .hold:active) .held { display: inline; }
.under { display: flex; flex-wrap: wrap; gap: 8px; min-height: 32px; align-items: center; font-size: 13px; }
.hold, .save { border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 4px 10px; }
.hold, .save { background: var(--background-fill-primary); color: var(--body-text-color); cursor: pointer; }
.hold, .save { font-size: 13px; line-height: 1.5; text-decoration: none; white-space: nowrap; }
.hold:hover, .save:hover { background: var(--background-fill-secondary); }
.scale { flex: 1; height: 8px; border-radius: 4px; }
.note { margin: 0; color: #92400e; }
.error { margin: 0; color: #b91c1c; }
.faint, .empty { color: var(--body-text-color-subdued); }
dl { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; min-height: 42px; }
dt { color: var(--body-text-color-subdued); font-size: 12px; line-height: 1.4; cursor: help; }
dt { text-decoration: underline dotted; text-underline-offset: 3px; }
dd { margin: 0; font-size: 15px; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class View:
    """How images are shown.

    Args:
        size: Height and width of the images, in pixels.
        zoom: Left and upper edge and side of the magnified square, as fractions of the image.
    """

    size: tuple[int, int]
    zoom: tuple[float, float, float]

    def figures(self, *figures: str) -> str:
        """Arrange figures in a row."""
        left, top, side = self.zoom
        style = (
            f"--columns: {len(figures)}; --ratio: {self.size[1]} / {self.size[0]}; --scale: {100 / side:.3f}%; "
            f"--left: {-100 * left / side:.3f}%; --top: {-100 * top / side:.3f}%"
        )
        return f'<div class="figures" style="{style}">{"".join(figures)}</div>'

    def figure(self, kind: str, caption: str, urls: dict[str, str], below: str = "") -> str:
        """Show images, which lie on top of each other, above their magnified part.

        Args:
            kind: Class of the figure, which is also its title.
            caption: What stands beside the title.
            urls: Addresses of the images by class, the lowest first.
            below: HTML below the images.
        """
        images = "".join(
            f'<img class="{name}" src="{escape(url)}" alt="{kind}" draggable="false">' for name, url in urls.items()
        )
        left, top, side = (f"{100 * value:.3f}%" for value in self.zoom)
        mark = f'<i class="mark" style="left: {left}; top: {top}; width: {side}; height: {side}"></i>'
        return (
            f'<figure class="{kind}"><figcaption>{caption}</figcaption><div class="frame whole">{images}{mark}</div>'
            f'<div class="frame zoom">{images}</div><div class="under">{below}</div></figure>'
        )


def show_images(view: View, names: Sequence[str], urls: Sequence[str], title: str) -> str:
    """Show the target, the edit and a reference.

    Args:
        view: How images are shown.
        names: Names of the target and of the reference.
        urls: Addresses of the target, the edit and the reference.
        title: What stands beside the title of the edit.
    """
    target, edit, reference = urls
    edit_caption = f'<b class="shown">edit</b><b class="held">target</b><span class="shown">{escape(title)}</span>'
    buttons = (
        '<button type="button" class="hold" id="edit-hold">Hold to compare</button>'
        f'<a class="save" id="edit-save" href="{escape(edit)}" download>Save</a>'
    )
    return view.figures(
        view.figure("target", _caption("target", names[0]), {"only": target}),
        view.figure("edit", edit_caption, {"lower": target, "over": edit}, buttons),
        view.figure("reference", _caption("reference", names[1]), {"only": reference}),
    )


def show_heat(view: View, url: str) -> str:
    """Show the heat map of an edit above its scale."""
    scale = f"background: linear-gradient(to right, {', '.join(scale_colours())})"
    below = f'<span class="faint">0</span><i class="scale" style="{scale}"></i><span class="faint">{MOST:g}+</span>'
    return view.figures(view.figure("heat", _caption("change", "CIELAB difference"), {"only": url}, below))


def show_figures(edited: Edited, change: Change, n_channels: int) -> str:
    """Show the number of channels, the time and the locality of an edit.

    Args:
        edited: The edit.
        change: What the edit has changed.
        n_channels: Number of channels of the edited sites.
    """
    per_part = ", ".join(
        f"{escape(edit.part)} {n:,}" for edit, n in zip(edited.request.parts, edited.n_channels, strict=True)
    )
    channels = f"{edited.n_moved:,} of {n_channels:,}" + (f" ({per_part})" if len(edited.n_channels) > 1 else "")
    values = {"channels moved": channels, "time of the edit": edit_time(edited)}
    values |= {name: _number(change.locality, field, style) for name, (field, style) in _FIELDS.items()}
    items = (f'<div><dt title="{TITLES[name]}">{name}</dt><dd>{value}</dd></div>' for name, value in values.items())
    return f"<dl>{''.join(items)}</dl>"


def edit_time(edited: Edited) -> str:
    """Return the time of an edit, as the page says it."""
    return f"{edited.seconds:.2f} s" + ("" if edited.is_new else " (cached)")


def show_hint(text: str, *, is_used: bool) -> str:
    """Explain a query in a few sentences, which also say whether it uses the budget and the threshold."""
    return f'<p class="{"used" if is_used else "unused"}">{escape(text)}</p>'


def show_note(text: str) -> str:
    """Show a remark on the edit, if there is one."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def show_empty(text: str) -> str:
    """Explain in one sentence why there is nothing to see."""
    return f'<p class="empty">{escape(text)}</p>'


TITLES = {
    "channels moved": "Style channels whose query is not 0, of all channels of the edited sites.",
    "time of the edit": "Time of the query, the blend, the synthesis and the encoding of the image.",
    "ΔE inside": "Mean CIELAB difference inside the line around the part. A difference of 1 is just visible.",
    "ΔE outside": "Mean CIELAB difference outside the line. It is low for a local edit.",
    "inside / outside": "ΔE inside divided by ΔE outside. It is high for a local edit.",
    "In-MSE": "Mean squared CIELAB difference inside the line. It is high for a good edit.",
    "Out-MSE": "Mean squared CIELAB difference outside the line. It is low for a good edit.",
}
_FIELDS = {
    "ΔE inside": ("delta_e_inside", "{:.2f}"),
    "ΔE outside": ("delta_e_outside", "{:.2f}"),
    "inside / outside": ("ratio", "{:.1f}"),
    "In-MSE": ("in_mse", "{:.2e}"),
    "Out-MSE": ("out_mse", "{:.2e}"),
}


def _number(locality: Locality, field: str, style: str) -> str:
    value = float(getattr(locality, field))
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else style.format(value)


def _caption(title: str, name: str) -> str:
    return f"<b>{title}</b><span>{escape(name)}</span>"
