# SPDX-License-Identifier: Apache-2.0
"""Texts in Markdown and in error messages."""

from __future__ import annotations

import string

import pytest

gr = pytest.importorskip("gradio")

from stylefast.app.components import guarded, in_markdown  # noqa: E402


def test_punctuation_is_escaped_for_markdown():
    assert in_markdown(string.punctuation) == "".join(f"\\{mark}" for mark in string.punctuation)
    assert in_markdown("seed 1 · é\n") == "seed 1 · é\n"


@pytest.mark.parametrize("is_stream", [False, True])
def test_errors_are_escaped_for_html(is_stream: bool):
    def stream():
        yield
        raise ValueError("<img src='a'> & b")

    def call():
        raise ValueError("<img src='a'> & b")

    with pytest.raises(gr.Error) as caught:
        [*guarded(stream)()] if is_stream else guarded(call)()
    assert caught.value.message == "&lt;img src=&#x27;a&#x27;&gt; &amp; b."
