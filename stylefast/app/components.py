# SPDX-License-Identifier: Apache-2.0
"""Elements that the tabs share: the theme, the errors of handlers, and inputs of seeds."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
import torch
from gradio.themes import Base, Default

from ..core.text import describe

EXPECTED = (ValueError, TypeError, OSError, ImportError, MemoryError, torch.OutOfMemoryError)
MAX_SEED = (1 << 32) - 1
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

# While an event runs, the browser defers further events of the same listener and sends only the last one. It sends all
# events of simultaneous changes, which the server handles one after the other.
IN_ORDER: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": 1}

CSS = """
.gradio-container { width: 100%; max-width: 1720px !important; margin: 0 auto !important; }
.gradio-container { padding: 0 24px 32px !important; }
.gradio-container h1 { font-size: 20px; font-weight: 600; margin: 16px 0 0; }
.gradio-container h3 { font-size: 14px; font-weight: 600; margin: 4px 0; }
.hint, .hint p { color: var(--body-text-color-subdued); font-size: 13px; line-height: 1.5; margin: 0; }
.message, .message p { font-size: 14px; line-height: 1.5; min-height: 42px; margin: 0; }
.message p + p { min-height: 0; }
.message .error, .hint .error { color: #b91c1c; }
.bar { align-items: center; }
#page-title .html-container, #parts-legend .html-container { padding: 0 0 6px; }
#parts-image img, #parts-faces img { width: 100%; object-fit: contain; }
#parts-left { max-width: 880px; }
#parts-image .image-frame, #parts-faces .image-frame { width: 100%; }
#parts-image .icon-button-wrapper, #parts-faces .icon-button-wrapper { display: none; }
.status { min-height: 60px; }
.legend { list-style: none; margin: 0; padding: 0; font-size: 14px; }
.legend li { display: flex; align-items: baseline; gap: 8px; padding: 3px 0; }
.legend i { flex: none; width: 12px; height: 12px; border-radius: 3px; align-self: flex-start; margin-top: 5px; }
.legend b { flex: none; font-weight: 600; width: 110px; overflow-wrap: anywhere; }
.legend span { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
footer { display: none !important; }
"""


def theme() -> Base:
    """Return a light, quiet theme in the typefaces of the system, so that no typeface is fetched."""
    return Default(
        primary_hue="blue", neutral_hue="slate", radius_size="sm", spacing_size="sm", font=FONTS, font_mono=MONOSPACE
    ).set(
        button_large_text_weight="500",
        button_medium_text_weight="500",
        button_small_text_weight="500",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def sentence(error: BaseException) -> str:
    """Return the message of an error as one sentence."""
    text = " ".join(describe(error).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def show_error(text: str) -> str:
    """Return the HTML of a sentence that says what was wrong."""
    return f'<p class="error" role="alert">{html.escape(text)}</p>'


def in_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, without markup, links and images."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def in_toast(text: str) -> str:
    """Return a text that an error message of Gradio, which is HTML, shows as it is."""
    return html.escape(text)


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show the expected errors of a handler in the page as one sentence, without a traceback.

    Args:
        handler: Function or generator that handles an event.
    """

    def refuse(error: BaseException) -> gr.Error:
        return gr.Error(in_toast(sentence(error)), title="This did not work", print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def stream(*arguments: Any, **options: Any) -> Any:
            try:
                yield from handler(*arguments, **options)
            except EXPECTED as error:
                raise refuse(error) from error

        return stream

    @wraps(handler)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return handler(*arguments, **options)
        except EXPECTED as error:
            raise refuse(error) from error

    return call


def begun(start: Callable[[], Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that gets a new state from `start` if it runs before the page is loaded.

    Gradio's own initial values come with an event of the page, which can overtake and undo the steps of a user.

    Args:
        start: Function that returns the state of a page without steps.
        handler: Handler whose first argument is the state.
    """

    @wraps(handler)
    def call(state: Any, *arguments: Any) -> Any:
        return handler(start() if state is None else state, *arguments)

    return call


def after(event: Any, *arguments: Any, **options: Any) -> None:
    """Add a listener for the end of an event, with or without an error. Gradio's `then` does not run after an error."""
    event.success(*arguments, **options)
    event.failure(*arguments, **options)


def seed_input(label: str, value: int, elem_id: str, **options: Any) -> gr.Number:
    """Return an input for a seed. It has no limits, because the handlers refuse bad seeds in a sentence."""
    return gr.Number(value, label=label, elem_id=elem_id, **options)
