"""What run folders and Slurm say of runs: done, running, waiting, how far. Imports nothing heavy."""

import fcntl
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fgvc.runtime.run_folder import RESULT
from slurm.errors import SlurmError
from slurm.queue import Job, read_record, states

STAGES = "stages.json"  # in a pipeline's folder: its stages in order, [{name, folder, mark}]
MARKS = ("identity.json", "slurm.json", "table.md", STAGES)  # a run, a submitted run, a comparison, a pipeline


@dataclass(frozen=True)
class Run:
    """A run folder as its files show it. `share`: of the steps, 0 to 1; `left_s`: seconds to go at the last rate;
    `stage`: its name in a pipeline, and `due` that it is its turn, where none is seen at work."""

    folder: Path
    record: dict[str, Any] | None
    result: dict[str, Any] | None
    last: dict[str, Any]
    share: float | None
    left_s: float | None
    written: float
    stage: str = ""
    due: bool = False


def find(runs_dir: Path) -> list[Path]:
    """Folders under `runs_dir` that hold a run or were submitted to hold one, newest first."""
    marks = [mark for name in MARKS for mark in runs_dir.glob(f"**/{name}")]
    folders = {mark.parent for mark in marks}
    return sorted(folders, key=_touched, reverse=True)


def _touched(folder: Path) -> float:
    """When something in a folder was last written, in seconds since the epoch."""
    newest = 0.0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # a file that is replaced has a name of its own for a moment
            newest = max(newest, file.stat().st_mtime)
    return newest


def read(folder: Path, mark: Path | None = None, stage: str = "", due: bool = False) -> Run:
    """What the files of a run folder say. mark: the file that says it is done, where it is not result.json."""
    result = read_json(folder / RESULT)
    if mark is not None and mark.name != RESULT:
        result = {} if mark.is_file() else None
    last = _last_line(folder / "metrics.jsonl")
    share, left = _progress(folder, last)
    files = [file for file in (folder / "metrics.jsonl", folder / RESULT) if file.is_file()]
    written = max((file.stat().st_mtime for file in files), default=0.0)
    return Run(folder, read_record(folder), result, last, share, left, written, stage, due)


def read_stages(home: Path) -> list[Run]:
    """The stages of a pipeline in their order, those that were not begun too; none where no pipeline was."""
    runs: list[Run] = []
    entries = read_json(home / STAGES) or []
    due = locked(home) and not any(locked(Path(entry["folder"])) for entry in entries)
    for entry in entries:
        run = read(Path(entry["folder"]), Path(entry["mark"]), entry["name"], due)
        due = due and run.result is not None
        runs.append(run)
    return runs


def jobs_of(runs: list[Run]) -> tuple[dict[str, Job], str]:
    """The runs' jobs as Slurm reports them, and why it does not."""
    ids = [run.record["job"] for run in runs if run.record and not run.result]
    if not ids:
        return {}, ""
    try:
        return states(ids), ""
    except SlurmError as error:
        return {}, str(error)


def state(run: Run, job: Job | None) -> str:
    """A word for where a run is: done, Slurm's own, running, stopped, or waiting for the stages before it."""
    if run.result is not None:
        return "done"
    if job is not None and job.name == (run.record or {}).get("name") and job.state != "UNKNOWN":
        return f"{job.state} ({job.reason})" if job.state == "PENDING" and job.reason else job.state
    if run.due or locked(run.folder):
        return "running"
    return "waiting" if run.stage and not (run.folder / "config.yaml").is_file() else "stopped"


def locked(folder: Path) -> bool:
    """Whether a process works in this folder."""
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_json(file: Path) -> Any:
    """A JSON file's value; None where it is not there or damaged."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where it is not there, damaged or something else."""
    found = read_json(file)
    return found if isinstance(found, dict) else {}


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
