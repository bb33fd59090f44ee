"""Parts of work in slots of time: what is done is on the disk before the next part begins, and the next call goes on.

    python SCRIPT --limit 570 -o OUT

A script gives its parts, in order of worth, to `main`. They run one after the other in a child process. A part starts
only if the time that it is expected to take fits what is left of the limit; one that fails, crashes or takes far longer
than expected is recorded with its traceback, and a new child goes on with the next. Each part has a file OUT/NAME.json,
OUT/report.json holds them all, both are replaced as a whole after every part. The next call with the same OUT does
what is not done; a part that was tried twice without success comes after all others.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = time.monotonic()

MARGIN = 2.0
"""Seconds of the limit that are left for stopping a part and for writing."""

PATIENCE = 4.0
"""A part that takes so many times what was expected, and a minute, has hung."""


@dataclass(frozen=True)
class Part:
    """One part of the work.

    Args:
        name: of its file and its folder.
        seconds: that it is expected to take; of one that keeps its progress, what it needs to be worth starting.
        work: gives the result, which JSON can hold; it may write into its folder.
        keeps: whether it keeps its progress in its folder and goes on from there: it may then be stopped anywhere.
    """

    name: str
    seconds: float
    work: Callable[["Place"], Mapping[str, Any]]
    keeps: bool = False


class Skipped(Exception):
    """What a part raises that cannot run here, because data or hardware is missing: no failure."""


@dataclass(frozen=True)
class Place:
    """Where a part runs.

    Args:
        folder: of the part, for files of its own; it is kept from call to call.
        options: the command line.
        deadline: when it will be stopped, as `time.monotonic` counts.
    """

    folder: Path
    options: argparse.Namespace
    deadline: float

    def left(self) -> float:
        """Seconds until it is stopped."""
        return self.deadline - time.monotonic()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of the options that every script has, for a script to add its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, required=True, help="seconds that this call may take")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of results and progress")
    parser.add_argument("--only", default="", help="parts to run, NAME,NAME (also those that are done)")
    parser.add_argument("--skip", default="", help="parts to leave out, NAME,NAME")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser


def main(
    parts: Sequence[Part],
    options: argparse.Namespace,
    about: Callable[[argparse.Namespace], Mapping[str, Any]] = lambda options: {},
) -> int:
    """Run what is not done and fits, and return the exit code: 1 if a part of this call failed.

    Args:
        parts: in order of worth.
        options: the parsed command line, of a parser made by `arguments`.
        about: the machine, recorded with each part; called in the child. If it fails, no part can run.
    """
    if options.child:
        return _child(parts, options, about)
    named = [name for text in (options.only, options.skip) for name in text.split(",") if name]
    for name in named:
        if name not in (known := [part.name for part in parts]):
            raise SystemExit(f"no part is called {name}: {', '.join(known)}")
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    for path in [out, *out.rglob("*")]:  # files that were copied back may be read-only
        path.chmod(path.stat().st_mode | 0o200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (out / "lock").open("w") as lock:
        deadline = STARTED + options.limit - MARGIN
        _wait_for(lock, deadline)
        return _parent(parts, options, deadline, lock.fileno())


def _parent(parts: Sequence[Part], options: argparse.Namespace, deadline: float, lock: int) -> int:
    out = options.output
    only, skip = (set(filter(None, text.split(","))) for text in (options.only, options.skip))
    states = {part.name: _read(out, part.name) for part in parts}
    todo = [part for part in parts if part.name not in skip]
    todo = [p for p in todo if (p.name in only if only else states[p.name].get("state") != "done")]
    todo.sort(key=lambda p: not p.keeps and states[p.name].get("attempts", 0) >= 2)  # a stable sort
    failed = False
    while todo := [
        part for part in todo if _need(part, _read(out, part.name)) <= deadline - time.monotonic()
    ]:
        child = f"{deadline} {','.join(part.name for part in todo)}"
        begun: set[str] = set()
        with (out / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *sys.argv, "--child", child],
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock],
            )  # fmt: skip
            try:
                why = _watch(process, todo, out, deadline, begun)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for part in todo:
            state = _read(out, part.name)
            if state.get("state") == "running" and state["process"] == process.pid:
                begun.add(part.name)
                seconds = time.time() - state["began"]
                if why == "limit":
                    state |= {"state": "stopped", "seconds": seconds}
                else:
                    error = why or f"the process ended with {_ending(process.returncode)}\n{_tail(out)}"
                    state |= {"state": "failed", "seconds": seconds, "error": error}
                _write(out, part.name, state)
                _say(part.name, state)
            failed |= part.name in begun and state.get("state") == "failed"
        if why == "limit" or (not begun and process.returncode == 0):
            break
        if not begun:
            print(f"no part could begin: {_ending(process.returncode)}\n{_tail(out)}", flush=True)
            return 1
        todo = [part for part in todo if part.name not in begun]
    _summary(parts, out)
    return int(failed)


def _watch(
    process: "subprocess.Popen[bytes]", todo: Sequence[Part], out: Path, deadline: float, begun: set[str]
) -> str:
    """Wait for the child to end, and note what it began; why it must be stopped, or nothing."""
    expected = {part.name: 60 + PATIENCE * part.seconds for part in todo if not part.keeps}
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
        states = {part.name: _read(out, part.name) for part in todo}
        running = {name: s for name, s in states.items() if s.get("process") == process.pid}
        begun.update(running)
        if process.returncode is not None:
            return ""
        if time.monotonic() > deadline:
            return "limit"
        for name, state in running.items():
            seconds = time.time() - state["began"]
            if state["state"] == "running" and seconds > expected.get(name, float("inf")):
                return f"stopped after {seconds:.0f} s: it has hung"


def _child(
    parts: Sequence[Part],
    options: argparse.Namespace,
    about: Callable[[argparse.Namespace], Mapping[str, Any]],
) -> int:
    """Run the parts that fit until one fails."""
    _end_with(os.getppid())
    until, names = options.child.split(" ")
    deadline, out = float(until), options.output
    by_name = {part.name: part for part in parts}
    with contextlib.redirect_stdout(sys.stderr):
        machine = about(options)
    for name in names.split(","):
        part, state = by_name[name], _read(out, name)
        if _need(part, state) > deadline - time.monotonic():
            continue
        began = time.time()
        state = {
            "state": "running", "began": began, "process": os.getpid(), "attempts": state.get("attempts", 0) + 1,
            "seconds": state.get("seconds", 0.0), "error": state.get("error"), "result": state.get("result"),
        }  # fmt: skip
        _write(out, name, state)
        place = Place(out / name, options, deadline)
        place.folder.mkdir(exist_ok=True)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = json.loads(json.dumps(part.work(place)))
        except Skipped as reason:
            state |= {"state": "skipped", "seconds": time.time() - began, "error": str(reason), "attempts": 0}
            _write(out, name, state)
            _say(name, state)
            continue
        except (Exception, SystemExit):
            error = traceback.format_exc()
            state |= {"state": "failed", "seconds": time.time() - began, "error": error, "machine": machine}
            _write(out, name, state)
            _say(name, state)
            return 1  # what a part leaves behind, of memory or of errors of a GPU, shall not reach the next
        state |= {"state": "done", "seconds": time.time() - began, "error": None, "result": result}
        _write(out, name, state | {"machine": machine})
        _say(name, state)
    return 0


def _need(part: Part, state: Mapping[str, Any]) -> float:
    """Seconds that a part needs: what was expected, or more than it had when it was stopped."""
    if part.keeps or state.get("state") != "stopped":
        return part.seconds
    return max(part.seconds, 1.3 * state["seconds"])


def _read(out: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((out / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(out: Path, name: str, state: Mapping[str, Any]) -> None:
    """Replace the file of a part, and the report of all."""
    _replace(out / f"{name}.json", state)
    files = [path for path in sorted(out.glob("*.json")) if path.stem != "report"]
    _replace(out / "report.json", {path.stem: _read(out, path.stem) for path in files})


def _replace(path: Path, content: object) -> None:
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _say(name: str, state: Mapping[str, Any]) -> None:
    line = f"{name:<28} {state['state']:<8} {state['seconds']:7.1f} s"
    if state["state"] == "done":
        line += f"  {json.dumps(state['result'])}"
    elif state["state"] in ("failed", "skipped"):
        line += "\n  " + "\n  ".join(state["error"].strip().splitlines()[-12:])
    print(line, flush=True)


def _summary(parts: Sequence[Part], out: Path) -> None:
    """Print what is done and what is not."""
    by_state: dict[str, list[str]] = {}
    for part in parts:
        state = _read(out, part.name)
        shown = (
            part.name if state.get("state") == "done" else f"{part.name} (takes {_need(part, state):.0f} s)"
        )
        by_state.setdefault(state.get("state", "not begun"), []).append(shown)
    for state, names in by_state.items():
        print(f"{state}: {', '.join(names)}", flush=True)
    print(f"{time.monotonic() - STARTED:.0f} s; results are in {out / 'report.json'}", flush=True)


def _ending(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def _tail(out: Path) -> str:
    return (out / "log.txt").read_text(errors="replace")[-2000:]


def _wait_for(lock: Any, deadline: float) -> None:
    """Wait until an earlier call, or what is left of a killed one, has ended."""
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{lock.name} is held by another call, which still runs") from None
            time.sleep(0.1)


def _end_with(parent: int) -> None:
    """End this process, and those that it started, when its parent is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
