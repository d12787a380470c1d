# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. `make docs` builds the site into build/docs; every warning is an error."""

from __future__ import annotations

import os
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole

import stylefast

project = "stylefast"
author = "The stylefast developers"
release = version = stylefast.__version__
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"stylefast {release}"
html_copy_source = False
myst_heading_anchors = 3
exclude_patterns = ["figures"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code_or_link"
highlight_language = "text"

# Both are read by typer when it is imported.
os.environ["TERMINAL_WIDTH"] = "100"
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"


class CodeOrLink(PyXRefRole):
    """Role of single backticks in docstrings: a documented name becomes a link; everything else is code."""

    def __call__(self, name: str, rawtext: str, text: str, *arguments: Any, **options: Any) -> Any:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
            return [nodes.literal(rawtext, nodes.unescape(text))], []
        return super().__call__("py:obj", rawtext, text, *arguments, **options)


class Help(Directive):
    """Show what `stylefast COMMAND --help` prints."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        from typer.testing import CliRunner

        from stylefast.cli.app import app

        result = CliRunner().invoke(app, [*" ".join(self.arguments).split(), "--help"], prog_name="stylefast")
        if result.exit_code != 0:
            raise self.error(result.output)
        text = "\n".join(line.rstrip() for line in result.output.strip("\n").splitlines())
        return [nodes.literal_block(text, text, language="text")]


def skip_inherited(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class describes, and the requests that scikit-learn adds."""
    is_field = str(getattr(member, "__doc__", "")).startswith("Alias for field number")
    return True if is_field or re.fullmatch("set_.*_request", name) else None


def setup(app: Sphinx) -> None:
    app.add_directive("help", Help)
    app.add_role("code_or_link", CodeOrLink())
    app.connect("autodoc-skip-member", skip_inherited)
