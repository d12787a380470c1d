# SPDX-License-Identifier: Apache-2.0
"""Builds, checks and measures the GPU backends in stages; each writes its results at once, and none ends the others.

The results are in the output folder: records.jsonl (one JSON object per line), log.txt (what every stage printed),
summary.json (how every stage ended) and, from Nsight Compute, ncu.csv. A later run into the same folder adds to them.
The exit status is 0 if every stage passed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
STAND_INS = Path(__file__).with_name("stand_ins")  # in a rehearsal, for nvidia-smi, compute-sanitizer and ncu
NO_GPU, CUT = 69, 75  # as in device.py, which would import torch
PASSED = ("ok", "cut")


@dataclass(frozen=True)
class Stage:
    """A module of this package with its arguments, and its time limit in seconds, on a GPU and in a rehearsal."""

    name: str
    command: tuple[str, ...]
    limit: float
    rehearsal: float
    answers: str


STAGES = (
    Stage("facts", ("gpu.facts",), 60, 60, "device, driver, versions, clocks; bandwidth of a copy, peaks of matmul"),
    Stage(
        "libraries", ("gpu.libraries",), 60, 300, "keeps the libraries carried along, or builds them for this device"
    ),
    Stage("smoke", ("gpu.smoke",), 60, 90, "every op x dtype x backend once against the reference"),
    Stage("key", ("gpu.timings", "key"), 60, 120, "eight key timings of both backends; host time of a small call"),
    Stage("rest", ("gpu.timings", "rest"), 80, 30, "other timings, rivals, sizes beyond 2^31, until the time is up"),
    Stage("tests", ("gpu.tests",), 120, 90, "the tests of both backends, the most telling first"),
    Stage("sanitizers", ("gpu.sanitizers",), 60, 90, "memcheck and racecheck of every op and dtype"),
    Stage("profile", ("gpu.profile",), 60, 90, "hardware counters of the main kernels, or a trace of them"),
)


@dataclass
class Result:
    """How a stage ended: "ok", "cut" (out of time, no failure), "failed", "stopped" (at its limit) or "no GPU"."""

    stage: str
    state: str
    seconds: float
    status: int | None
    last_line: str


def environment(out: Path, stage: Stage, limit: float, rehearsal: bool) -> dict[str, str]:
    """The environment variables of a stage."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), *([str(ROOT / "tests")] if rehearsal else [])]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    end = time.monotonic() + limit  # on a clock that all processes of a machine share
    given = {"OUT": str(out), "STYLEFAST_STAGE_END": str(end), "PYTHONPATH": os.pathsep.join(paths)}
    given["OMP_PROC_BIND"] = "false"  # bound, a stage would have all its child processes share one core
    if rehearsal:
        given |= {"STYLEFAST_REHEARSAL": "1", "TRITON_INTERPRET": "1"}
        given["PATH"] = f"{STAND_INS}{os.pathsep}{os.environ['PATH']}"
    return os.environ | given


def run(stage: Stage, out: Path, limit: float, rehearsal: bool) -> Result:
    """Runs a stage; at its limit ends it and all that it has started."""
    command = [sys.executable, "-u", "-m", *stage.command]
    begin = time.monotonic()
    with (out / "log.txt").open("a") as log:
        log.write(f"\n== {stage.name}: {' '.join(stage.command)}\n")
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(out, stage, limit, rehearsal),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    with (out / "log.txt").open(errors="replace") as log:
        log.seek(start)
        lines = log.read().strip().splitlines()
    state = {None: "stopped", 0: "ok", CUT: "cut", NO_GPU: "no GPU"}.get(status, "failed")
    return Result(stage.name, state, time.monotonic() - begin, status, lines[-1] if lines else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its group: first politely, then not."""
    for sent, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process.poll()  # reaps it
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def conclude(out: Path, result: Result) -> None:
    """Adds how a stage ended to summary.json, in place of how it ended in an earlier run into the same folder."""
    path = out / "summary.json"
    stages = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stages | {result.stage: asdict(result)}, indent=2) + "\n")


def figures(out: Path) -> list[str]:
    """A line for every timing in the records."""
    path, lines = out / "records.jsonl", []
    for text in path.read_text().splitlines() if path.exists() else []:
        entry = json.loads(text)
        if entry["kind"] == "timing":
            name = f"{entry['op']} {entry['workload']} | {entry['implementation']}"
            lines.append(f"{name:<80}{1e3 * entry['p50']:9.3f} ms {100 / entry['to_floor']:4.0f} % of copy")
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [stage.name for stage in STAGES]
    listing = "\n".join(f"  {stage.name:<11}{stage.limit:4.0f} s  {stage.answers}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh",
        description=__doc__,
        epilog=f"stages, their time limits, and what they answer:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stages", default=os.environ.get("STAGES", ""), help="names with commas (STAGES); default: all"
    )
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="the output folder (OUT)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="STAGE=SECONDS", help="another time limit (repeatable)"
    )
    parser.add_argument("--rehearse", action="store_true", help="run every stage on a CPU; its figures mean nothing")
    chosen = parser.parse_args(arguments)
    chosen.stages = [name for name in chosen.stages.replace(",", " ").split() if name] or names
    if unknown := [name for name in chosen.stages if name not in names]:
        parser.error(f"stages must be among {', '.join(names)}, got {', '.join(unknown)}")
    limits = [text.partition("=") for text in chosen.limit]
    if wrong := ["".join(each) for each in limits if each[0] not in names or not each[2].replace(".", "", 1).isdigit()]:
        parser.error(f"limit must look like tests=60, got {', '.join(wrong)}")
    chosen.limit = {name: float(seconds) for name, _, seconds in limits}
    kind = "rehearsal" if chosen.rehearse else "run"
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    default = ROOT / "build" / "gpu-rehearsal" if chosen.rehearse else RESULTS / stamp
    chosen.out = Path(chosen.out or default).resolve()
    if chosen.rehearse and RESULTS in (chosen.out, *chosen.out.parents):
        parser.error(f"out must not be in {RESULTS}: the figures of a {kind} are no records")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    passed, cut = True, []
    for stage in (stage for stage in STAGES if stage.name in chosen.stages):
        limit = chosen.limit.get(stage.name, stage.rehearsal if chosen.rehearse else stage.limit)
        result = run(stage, chosen.out, limit, chosen.rehearse)
        conclude(chosen.out, result)
        passed &= result.state in PASSED
        cut += [stage.name] if result.state == "cut" else []
        print(f"{stage.name:<11}{result.state:<8}{result.seconds:5.1f} s  {result.last_line}", flush=True)
        if result.state == "no GPU":
            break
    print("\n".join(figures(chosen.out)))
    unfinished = f", out of time in {', '.join(cut)}" if cut else ""
    print(f"{'passed' if passed else 'not passed'}{unfinished}; results are in {chosen.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
