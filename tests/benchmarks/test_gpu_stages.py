# SPDX-License-Identifier: Apache-2.0
"""Tests of the runner of the GPU stages: a stage that fails, hangs or crashes does not affect the other stages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gpu.__main__ as runner
import pytest

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
RECORDS = """
import json, os
timing = {"op": "o", "workload": "w", "implementation": %r, "p50": 0.002, "to_floor": 4.0}
with open(os.environ["OUT"] + "/records.jsonl", "a") as file:
    file.write(json.dumps({"kind": "timing", "rehearsal": False} | timing) + chr(10))
print("done %s")
"""


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the stages by ones that work, fail, hang, are killed, run out of time, and work again."""
    scripts = {
        "first": RECORDS % ("first", "first"),
        "fails": "print('begun'); raise ValueError('on purpose')",
        "hangs": STUBBORN,
        "dies": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "is_cut": f"raise SystemExit({runner.CUT})",
        "last": RECORDS % ("last", "last"),
    }
    stages = []
    for name, script in scripts.items():
        (tmp_path / f"stage_{name}.py").write_text(script)
        stages.append(runner.Stage(name, (f"stage_{name}",), 5 if name == "hangs" else 60, "a test"))
    monkeypatch.setattr(runner, "STAGES", tuple(stages))
    monkeypatch.setattr(runner, "has_gpu", lambda: True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("stages")
def test_no_stage_stops_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert runner.main(["--out", str(out)]) == 1
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    states = {name: result["state"] for name, result in summary.items()}
    expected = {"first": "ok", "fails": "failed", "hangs": "stopped", "dies": "failed", "is_cut": "cut", "last": "ok"}
    assert states == expected
    assert all(f"{name:<11}{state:<8}" in printed for name, state in expected.items())
    assert summary["fails"]["last_line"] == "ValueError: on purpose" and summary["dies"]["status"] == -11
    records = [json.loads(line)["implementation"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert records == ["first", "last"]
    assert re.findall(r"o w \| (\w+) +2.000 ms   25 % of copy", printed) == ["first", "last"]
    log = (out / "log.txt").read_text()
    assert "begun" in log and log.index("done first") < log.index("on purpose") < log.index("done last")
    assert not is_running(int(summary["hangs"]["last_line"]))  # the child of the stage that hangs


@pytest.mark.usefixtures("stages")
def test_selected_stages_that_pass_exit_with_zero(tmp_path: Path):
    assert runner.main(["--out", str(tmp_path / "out"), "--stages", "first,is_cut"]) == 0
    assert runner.main(["--out", str(tmp_path / "out"), "--stages", "fails"]) == 1
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())) == ["first", "is_cut", "fails"]


def command(*arguments: Any) -> list[str]:
    return [str(runner.ROOT / "benchmarks" / "gpu.sh"), *map(str, arguments)]


@pytest.mark.parametrize(
    "name, message",
    [
        ("torch", "make gpu needs an NVIDIA GPU that torch can use"),
        ("no_torch", "make gpu needs torch for .*: .*no torch"),
    ],
)
def test_without_a_gpu_or_torch_nothing_is_written(name: str, message: str, tmp_path: Path):
    (tmp_path / "no_torch").mkdir()
    (tmp_path / "no_torch" / "torch.py").write_text("raise ImportError('no torch')")
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path / name),
    }
    process = subprocess.run(
        command("--out", tmp_path / "out"), env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert process.returncode == 1 and re.search(message, process.stdout, re.DOTALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_the_stage_and_its_children(number: int, tmp_path: Path):
    out = tmp_path / "out"
    script = f"""
import gpu.__main__ as runner
runner.STAGES = tuple(runner.Stage(name, (f"stage_{{name}}",), 60, "") for name in ("first", "hangs", "last"))
raise SystemExit(runner.main(["--out", {str(out)!r}, "--rehearse"]))
"""
    paths = [str(tmp_path), str(runner.ROOT / "benchmarks"), str(runner.ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    child = wait_for(lambda: re.search(r"== hangs.*\n(\d+)\n", (out / "log.txt").read_text()))
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "hangs: interrupted; results are in" in printed
    assert json.loads((out / "summary.json").read_text())["hangs"]["state"] == "interrupted"
    assert not is_running(int(child[1]))


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true result of `condition`, which may read files that do not exist yet."""
    for _ in range(2400):
        with suppress(FileNotFoundError):
            if result := condition():
                return result
        time.sleep(0.05)
    raise AssertionError("the condition did not become true within 120 s")


def test_a_stage_has_its_own_time_limit_or_the_requested_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limits = {}

    def run(stage: runner.Stage, out: Path, limit: float, rehearsal: bool) -> runner.Result:
        limits[stage.name] = limit, rehearsal
        return runner.Result(stage.name, "ok", 0.0, 0, "")

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "has_gpu", lambda: True)
    assert runner.main(["--out", str(tmp_path / "a"), "--stages", "facts,key", "--limit", "key=7.5"]) == 0
    assert limits == {"facts": (runner.STAGES[0].limit, False), "key": (7.5, False)}
    assert runner.main(["--out", str(tmp_path / "b"), "--stages", "facts", "--rehearse"]) == 0
    assert limits["facts"] == (runner.STAGES[0].rehearsal, True)


def test_the_environment_names_the_folder_and_the_deadline(tmp_path: Path):
    real, rehearsal = (runner.environment(tmp_path, runner.STAGES[0], 50.0, rehearsal) for rehearsal in (False, True))
    assert real["OUT"] == str(tmp_path) and real["OMP_PROC_BIND"] == "false"
    assert 30 < float(real["STYLEFAST_STAGE_END"]) - time.monotonic() < 50.1
    assert (rehearsal["TRITON_INTERPRET"], rehearsal["STYLEFAST_REHEARSAL"]) == ("1", "1")
    assert rehearsal["PATH"].startswith(f"{runner.STAND_INS}:") and str(runner.STAND_INS) not in real["PATH"]
    assert "STYLEFAST_REHEARSAL" not in real


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stages", "facts,tets"], "stages must be among facts, .* got tets"),
        (["--limit", "tests"], "limit must look like tests=60, .* got tests"),
        (["--limit", "tets=6"], "with a stage among facts, .* got tets=6"),
        (["--limit", "tests=\u00b2"], "limit must look like tests=60"),
        (["--rehearse", "--out", str(runner.RESULTS / "a")], "rehearsal times are not results"),
        (["--out", __file__], "out must be a folder with intact records"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        runner.main(arguments)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("rehearsal", [True, False])
def test_a_rehearsal_and_results_do_not_mix(rehearsal: bool, tmp_path: Path):
    (tmp_path / "records.jsonl").write_text(json.dumps({"rehearsal": rehearsal}) + "\n")
    assert runner.refusal(tmp_path, rehearsal) is None
    assert "must not mix a rehearsal with results" in str(runner.refusal(tmp_path, not rehearsal))


def test_an_output_folder_that_cannot_be_created_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert runner.main(["--rehearse", "--out", "/proc/nowhere"]) == 1
    assert "cannot write to /proc/nowhere" in capsys.readouterr().err


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("STAGES", "smoke, key")
    monkeypatch.setenv("OUT", str(tmp_path))
    options = runner.parse(["--limit", "key=2.5"])
    assert (options.stages, options.out, options.limit) == (["smoke", "key"], tmp_path, {"key": 2.5})


def test_the_time_limits_fit_into_ten_minutes():
    assert sum(stage.limit for stage in runner.STAGES) <= 570
