# SPDX-License-Identifier: Apache-2.0
"""Run the code of the tutorial with the real generator, and write its figures and outputs.

The figures go to docs/figures, and the outputs into the `text` blocks of docs/tutorial.md. `--engine native` runs the
generator in another engine, which takes less time on a CPU.
"""

from __future__ import annotations

import argparse
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


MAX_BYTES = 200_000  # of a figure


def main(engine: str) -> None:
    """Run the tutorial with an engine."""
    names: dict[str, Any] = {}

    def run(match: re.Match[str]) -> str:
        output = io.StringIO()
        with redirect_stdout(output):
            exec(compile(match["code"], TUTORIAL.name, "exec"), names)
        if names["generator"].engine.name != engine:
            names["generator"].use_engine(engine)
        printed = output.getvalue()
        if bool(printed) != (match["output"] is not None):
            raise SystemExit(
                f"{TUTORIAL.name}: a block that prints needs a `text` block, and no other does:\n{match[0]}"
            )
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{printed}```\n" if printed else "")

    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        text = BLOCK.sub(run, TUTORIAL.read_text())
        figures = sorted(Path(folder).glob("*.jpg"))
        too_large = [figure.name for figure in figures if figure.stat().st_size > MAX_BYTES]
        if too_large:
            raise SystemExit(f"these figures have more than {MAX_BYTES} bytes: {', '.join(too_large)}")
        for figure in figures:
            shutil.copy(figure, FIGURES)
    TUTORIAL.write_text(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the tutorial, and write its figures and outputs.")
    parser.add_argument("--engine", default="eager", help="engine that makes the images")
    main(parser.parse_args().engine)
