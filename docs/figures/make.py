# SPDX-License-Identifier: Apache-2.0
"""Run the code of the tutorial with the real generator, and write its figures and outputs.

The figures go to docs/figures, and the outputs into the `text` blocks of docs/tutorial.md.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when torch is imported

FIGURES = Path(__file__).resolve().parent
TUTORIAL = FIGURES.parent / "tutorial.md"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)


def main() -> None:
    names: dict[str, Any] = {}

    def run(match: re.Match[str]) -> str:
        output = io.StringIO()
        with redirect_stdout(output):
            exec(compile(match["code"], TUTORIAL.name, "exec"), names)
        printed = output.getvalue()
        if bool(printed) != (match["output"] is not None):
            raise SystemExit(
                f"{TUTORIAL.name}: a block that prints needs a `text` block, and no other does:\n{match[0]}"
            )
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{printed}```\n" if printed else "")

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        text = BLOCK.sub(run, TUTORIAL.read_text())
        for figure in Path(folder).glob("*.jpg"):
            shutil.copy(figure, FIGURES)
    TUTORIAL.write_text(text)


if __name__ == "__main__":
    main()
