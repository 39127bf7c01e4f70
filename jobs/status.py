"""fgvc status: runs with their jobs' state, progress, time left and last figures.

    fgvc status                          every run under runs/
    fgvc status runs_dir=/scratch/runs   every run there
    fgvc status NAME                     one run: its figures, its job, the end of its log (also JOB/NAME, its folder)
    fgvc status sweep/NAME               a sweep or a comparison, and its runs

A run's state comes from its folder (done), else from Slurm (PENDING, RUNNING, ...), else from the lock that a running
process holds.
"""

import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.registry import COMMANDS, command_module
from shards.errors import UserError
from shards.sources.problems import printable
from slurm.errors import SlurmError
from slurm.queue import Job, read_record, states

MARKS = ("identity.json", "slurm.json", "table.md")  # a run, a submitted run, a comparison


@dataclass(frozen=True)
class Run:
    """A run folder as its files show it. `share`: of the steps, 0 to 1; `left_s`: seconds to go at the last rate."""

    folder: Path
    record: dict[str, Any] | None
    result: dict[str, Any] | None
    last: dict[str, Any]
    share: float | None
    left_s: float | None
    written: float


def main(words: list[str]) -> int:
    """`fgvc status WORDS`. Raises UserError for a folder that holds no run."""
    if any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    runs_dir, named = Path("runs"), []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key == "runs_dir":
            runs_dir = Path(value).expanduser()
        elif sign:
            raise UserError(f"'{word}' is not a setting of status; there is one: runs_dir=FOLDER")
        else:
            named.append(word)
    folders = [folder for word in named for folder in _named(word, runs_dir)] or find(runs_dir)
    if not folders:
        print(f"no runs under {runs_dir}")
        return 0
    runs = [read(folder) for folder in folders]
    jobs, problem = _jobs(runs)
    rows: list[tuple[str, ...]] = [("run", "state", "job", "progress", "left", "last figures")]
    rows += [_row(run, jobs, runs_dir) for run in runs]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(printable("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()))
    if problem:
        print(f"\nSlurm is not responding: {problem}")
    if named and len(runs) <= len(named):
        for run in runs:
            _detail(run, jobs)
    return 0


def find(runs_dir: Path) -> list[Path]:
    """Folders under `runs_dir` that hold a run or were submitted to hold one, newest first."""
    marks = [mark for name in MARKS for mark in runs_dir.glob(f"**/{name}")]
    folders = {mark.parent for mark in marks}
    return sorted(folders, key=lambda folder: max(file.stat().st_mtime for file in folder.iterdir()), reverse=True)


def read(folder: Path) -> Run:
    """What the files of a run folder say."""
    result = _json(folder / "result.json")
    last = _last_line(folder / "metrics.jsonl")
    share, left = _progress(folder, last)
    files = [file for file in (folder / "metrics.jsonl", folder / "result.json") if file.is_file()]
    written = max((file.stat().st_mtime for file in files), default=0.0)
    return Run(folder, read_record(folder), result, last, share, left, written)


def _progress(folder: Path, last: dict[str, Any]) -> tuple[float | None, float | None]:
    """(share of the steps done, seconds left at the last rate), where config and metrics tell."""
    try:
        train = yaml.safe_load((folder / "config.yaml").read_text())["train"]
        step, epochs = last["step"], train["epochs"]
        total = round(step / last["epoch"]) * epochs
        total = min(total, train.get("max_steps") or total)
        return step / total, (total - step) * train["batch"] / last["images_per_second"]
    except (OSError, KeyError, TypeError, ZeroDivisionError, ValueError):
        return None, None


def _jobs(runs: list[Run]) -> tuple[dict[str, Job], str]:
    """The runs' jobs as Slurm reports them, and why it does not."""
    ids = [run.record["job"] for run in runs if run.record and not run.result]
    if not ids:
        return {}, ""
    try:
        return states(ids), ""
    except SlurmError as error:
        return {}, str(error)


def _row(run: Run, jobs: dict[str, Job], runs_dir: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(runs_dir)) if run.folder.is_relative_to(runs_dir) else str(run.folder)
    job = jobs.get(run.record["job"]) if run.record else None
    state = _state(run, job)
    moving = state in ("RUNNING", "running")
    share = "" if run.share is None else f"{min(run.share, 1):.0%} step {run.last['step']}"
    left = time.strftime("%H:%M:%S", time.gmtime(run.left_s)) if moving and run.left_s is not None else ""
    return name, state, run.record["job"] if run.record else "", share, left, _figures(run)


def _state(run: Run, job: Job | None) -> str:
    if run.result is not None:
        return "done"
    if job is not None and job.name == (run.record or {}).get("name") and job.state != "UNKNOWN":
        return f"{job.state} ({job.reason})" if job.state == "PENDING" and job.reason else job.state
    return "running" if _locked(run.folder) else "stopped"


def _locked(folder: Path) -> bool:
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _figures(run: Run) -> str:
    """The job's headline once it is done, before that the last step's figures that fit in a line."""
    job = run.folder.parent.name
    module = command_module(job) if job in COMMANDS else None
    headline = getattr(module, "HEADLINE", None)
    if run.result is not None:
        return headline.line(run.result) if headline else module.headline(run.result) if module else ""
    shown = ["loss", *([headline.key, f"val_{headline.key}"] if headline else []), "lr"]
    return " ".join(f"{key} {run.last[key]:.4g}" for key in shown if isinstance(run.last.get(key), float | int))


def _detail(run: Run, jobs: dict[str, Job]) -> None:
    print("\n" + printable(str(run.folder)))
    if run.written:
        print(f"  last written {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.written))}")
    newest = max((run.folder / "checkpoints").glob("step-*"), default=None)
    print(f"  checkpoint   {newest.name if newest else 'none'}")
    if run.record is None:
        return
    log = Path(run.record["log"])
    print(f"  log          {log}")
    if log.is_file():
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").replace("\r", "\n").split("\n")
        for line in [line for line in lines if line.strip()][-5:]:
            print(printable(f"    {line.rstrip()[:160]}"))


def _named(word: str, runs_dir: Path) -> list[Path]:
    """The run that a word names, by its folder, JOB/NAME or NAME; of a sweep or a comparison its runs too."""
    places = [folder for folder in (Path(word), runs_dir / word) if folder.is_dir()]
    places = places[:1] or [folder for folder in runs_dir.glob(f"*/{word}") if folder.is_dir()]
    found = [run for folder in places for run in find(folder)]
    if not found:
        raise UserError(f"{word}: no run there; fgvc status lists the runs under {runs_dir}")
    return sorted(found)


def _json(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _last_line(file: Path) -> dict[str, Any]:
    """The last whole line of a metrics.jsonl."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 16384))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return {}
