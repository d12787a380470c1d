# SPDX-License-Identifier: Apache-2.0
"""Build, check and measure the GPU backends in stages.

Each stage writes its results immediately. A stage that fails does not stop the others.

The output folder receives records.jsonl (one JSON object per line), log.txt (the output of every stage), summary.json
(the outcome of every stage) and ncu.csv (from Nsight Compute, if it is used). A later run into the same folder adds to
these files. The exit status is 0 if no stage failed or was stopped at its time limit, and 130 after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .statuses import CUT, NO_GPU

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
STAND_INS = Path(__file__).with_name("stand_ins")  # replace nvidia-smi, compute-sanitizer and ncu in a rehearsal


@dataclass(frozen=True)
class Stage:
    """A stage of the run.

    Attributes:
        name: Name of the stage.
        command: Module of this package, with its arguments.
        limit: Time limit on a GPU in seconds.
        answers: What the stage finds out, for `--help`.
        rehearsal: Time limit of a rehearsal in seconds. A rehearsal may share its processors with other work.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    answers: str
    rehearsal: float = 600


STAGES = (
    Stage("facts", ("gpu.facts",), 40, "device, driver, versions, clocks; bandwidth of a copy, peaks of matmul"),
    Stage("libraries", ("gpu.libraries",), 60, "whether the prebuilt libraries work here; if not, builds new ones"),
    Stage("smoke", ("gpu.smoke",), 60, "one call per op, dtype and backend against the reference"),
    Stage("key", ("gpu.timings", "key"), 50, "eight key timings per backend; host time of small calls"),
    Stage("editing", ("gpu.editing",), 90, "edits per second of whole networks against plain loops"),
    Stage("rest", ("gpu.timings", "rest"), 60, "other timings, alternatives, sizes beyond 2^31, until time is up", 30),
    Stage("tests", ("gpu.tests",), 110, "the tests of both backends; agreement with the reference comes first"),
    Stage("sanitizers", ("gpu.sanitizers",), 50, "memcheck and racecheck of every op and dtype"),
    Stage("profile", ("gpu.profile",), 50, "hardware counters of the main kernels, or a trace of them"),
)


@dataclass
class Result:
    """Outcome of a stage.

    `state` is "ok", "cut" (out of time without a failure), "failed", "stopped" (at its limit), "interrupted" or
    "no GPU".
    """

    stage: str
    state: str
    seconds: float
    status: int | None
    last_line: str


def environment(out: Path, stage: Stage, limit: float, rehearsal: bool) -> dict[str, str]:
    """Return the environment variables of a stage."""
    paths = [
        str(ROOT),
        str(ROOT / "benchmarks"),
        *([str(ROOT / "tests" / "kernels"), str(ROOT / "tests" / "support")] if rehearsal else []),
    ]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    end = time.monotonic() + limit  # this clock is the same in all processes of a machine
    variables = {"OUT": str(out), "STYLEFAST_STAGE_END": str(end), "PYTHONPATH": os.pathsep.join(paths)}
    variables["OMP_PROC_BIND"] = "false"  # otherwise all child processes of a stage would be bound to one core
    if rehearsal:
        variables |= {"STYLEFAST_REHEARSAL": "1", "TRITON_INTERPRET": "1"}
        variables["PATH"] = f"{STAND_INS}{os.pathsep}{os.environ['PATH']}"
    return os.environ | variables


def run(stage: Stage, out: Path, limit: float, rehearsal: bool) -> Result:
    """Run a stage. At its limit, or when this process is interrupted, end it and all processes that it started."""
    command, begin, interrupted = [sys.executable, "-u", "-m", *stage.command], time.monotonic(), False
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
            preexec_fn=_interruptible,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        except KeyboardInterrupt:
            status, interrupted = None, True
        finally:
            _end(process)
    state = {None: "stopped", 0: "ok", CUT: "cut", NO_GPU: "no GPU"}.get(status, "failed")
    state = "interrupted" if interrupted else state
    return Result(stage.name, state, time.monotonic() - begin, status, _last_line(out / "log.txt", start))


def _interruptible() -> None:
    """Let SIGINT interrupt a new process, even if this process runs in the background and ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _last_line(path: Path, start: int) -> str:
    with path.open("rb") as log:
        log.seek(max(start, log.seek(0, os.SEEK_END) - 10_000))
        lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: terminate them and, if they still run after three seconds, kill them."""
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process.poll()  # reaps the process once it has ended
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def conclude(out: Path, result: Result) -> None:
    """Write the outcome of a stage to summary.json. It replaces the outcome of an earlier run into the same folder."""
    path = out / "summary.json"
    stages = json.loads(path.read_text()) if path.exists() else {}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stages | {result.stage: asdict(result)}, indent=2) + "\n")
    part.replace(path)


def figures(records: Path, start: int) -> list[str]:
    """Return one line per timing in the records from byte `start` on."""
    lines = []
    for text in records.read_bytes()[start:].decode().splitlines() if records.exists() else []:
        record = _parsed(text)
        if record.get("kind") == "timing":
            name = f"{record['op']} {record['workload']} | {record['implementation']}"
            lines.append(f"{name:<80}{1e3 * record['p50']:9.3f} ms {100 / record['to_floor']:4.0f} % of copy bandwidth")
    return lines


def _parsed(text: str) -> dict[str, Any]:
    """Return the record of a line, or an empty record if the line is incomplete, for example after a full disk."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [stage.name for stage in STAGES]
    listing = "\n".join(f"  {stage.name:<11}{stage.limit:4.0f} s  {stage.answers}" for stage in STAGES)
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh",
        description=__doc__,
        epilog=f"Stages, their time limits, and what they find out:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stages",
        default=os.environ.get("STAGES", ""),
        help="Comma-separated stages to run (environment variable STAGES). Default: all.",
    )
    parser.add_argument(
        "--out", type=Path, default=os.environ.get("OUT") or None, help="Output folder (environment variable OUT)."
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="STAGE=SECONDS",
        help="Time limit of a stage; may be given several times.",
    )
    parser.add_argument("--rehearse", action="store_true", help="Run every stage on a CPU. The times mean nothing.")
    options = parser.parse_args(arguments)
    options.stages = [name for name in options.stages.replace(",", " ").split() if name] or names
    if unknown := [name for name in options.stages if name not in names]:
        parser.error(f"stages must be among {', '.join(names)}, got {', '.join(unknown)}")
    limits = dict(re.findall(r"^(\w+)=(\d+(?:\.\d+)?)$", "\n".join(options.limit), re.MULTILINE | re.ASCII))
    if len(limits) < len(options.limit) or not set(limits) <= set(names):
        parser.error(
            f"limit must look like tests=60, with a stage among {', '.join(names)}, got {' '.join(options.limit)}"
        )
    options.limit = {name: float(seconds) for name, seconds in limits.items()}
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    default = ROOT / "build" / "gpu-rehearsal" if options.rehearse else RESULTS / stamp
    options.out = Path(options.out or default).resolve()
    if problem := refusal(options.out, options.rehearse):
        parser.error(problem)
    return options


def refusal(out: Path, rehearsal: bool) -> str | None:
    """Return why the results cannot go to this folder, or None if they can."""
    if rehearsal and RESULTS in (out, *out.parents):
        return f"out must not be in {RESULTS}: rehearsal times are not results"
    try:
        records = (out / "records.jsonl").read_text().splitlines()
        if records and json.loads(records[0]).get("rehearsal") == (not rehearsal):
            return f"out must not mix a rehearsal with results: {out} has records of the other kind"
        json.loads((out / "summary.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"out must be a folder with intact records: {error}"
    return None


def has_gpu() -> bool:
    """Return whether torch is installed and finds a GPU; if not, print why.

    This also loads torch into the page cache.
    """
    script = f"import torch; raise SystemExit(0 if torch.cuda.is_available() else {NO_GPU})"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if process.returncode == NO_GPU:
        print("make gpu needs an NVIDIA GPU that torch can use")
    elif process.returncode != 0:
        print(f"make gpu needs torch for {sys.executable} (PYTHON selects another): {process.stderr.strip()[-200:]}")
    return process.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.rehearse:
        print("REHEARSAL on a CPU: these times mean nothing", flush=True)
    elif not has_gpu():
        return 1
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "log.txt").open("a").close()
    except OSError as error:
        print(f"cannot write to {options.out}: {error.strerror}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    records = options.out / "records.jsonl"
    begin, states = records.stat().st_size if records.exists() else 0, {}
    for stage in (stage for stage in STAGES if stage.name in options.stages):
        limit = options.limit.get(stage.name, stage.rehearsal if options.rehearse else stage.limit)
        try:
            result = run(stage, options.out, limit, options.rehearse)
            conclude(options.out, result)
        except OSError as error:
            result = Result(stage.name, "failed", 0.0, None, f"cannot write to {options.out}: {error.strerror}")
        states[stage.name] = result.state
        print(f"{stage.name:<11}{result.state:<8}{result.seconds:6.1f} s  {result.last_line}", flush=True)
        if result.state == "interrupted":
            break
    print("\n".join(figures(records, begin)))
    ended = "; ".join(f"{name}: {state}" for name, state in states.items() if state != "ok") or "every stage: ok"
    print(f"{ended}; results are in {options.out}")
    if "interrupted" in states.values():
        return 130
    return 0 if set(states.values()) <= {"ok", "cut"} else 1


if __name__ == "__main__":
    sys.exit(main())
