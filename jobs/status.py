"""fgvc status: runs with their jobs' state, progress, time left and last figures.

    fgvc status                          every run under runs/
    fgvc status runs_dir=/scratch/runs   every run there
    fgvc status NAME                     one run: its figures, its job, the end of its log (also JOB/NAME, its folder)
    fgvc status sweep/NAME               a sweep or a comparison, and its runs
    fgvc status pipeline/NAME            a pipeline's stages in their order, those that wait too

A run's state comes from its folder (done), else from Slurm (PENDING, RUNNING, ...), else from the lock that a running
process holds.
"""

import time
from pathlib import Path

from jobs.registry import COMMANDS, command_module
from jobs.states import STAGES, Run, find, jobs_of, read, read_stages, state
from shards.errors import UserError
from shards.sources.problems import printable
from slurm.queue import Job


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
    runs = [run for word in named for run in _named(word, runs_dir)]
    runs = runs or [read(folder) for folder in find(runs_dir) if not (folder / STAGES).is_file()]
    if not runs:
        print(f"no runs under {runs_dir}")
        return 0
    jobs, problem = jobs_of(runs)
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


def _row(run: Run, jobs: dict[str, Job], runs_dir: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(runs_dir)) if run.folder.is_relative_to(runs_dir) else str(run.folder)
    job = jobs.get(run.record["job"]) if run.record else None
    now = state(run, job)
    moving = now in ("RUNNING", "running")
    share = "" if run.share is None else f"{min(run.share, 1):.0%} step {run.last['step']}"
    left = time.strftime("%H:%M:%S", time.gmtime(run.left_s)) if moving and run.left_s is not None else ""
    return run.stage or name, now, run.record["job"] if run.record else "", share, left, _figures(run)


def _figures(run: Run) -> str:
    """The job's headline once it is done, before that the last step's figures that fit in a line."""
    job = run.folder.parent.name
    module = command_module(job) if job in COMMANDS else None
    headline = getattr(module, "HEADLINE", None)
    if run.result is not None:
        return headline.line(run.result) if headline else module.headline(run.result) if run.result and module else ""
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


def _named(word: str, runs_dir: Path) -> list[Run]:
    """The run that a word names, by its folder, JOB/NAME or NAME; of a sweep or a comparison its runs too, of a
    pipeline its stages."""
    places = [folder for folder in (Path(word), runs_dir / word) if folder.is_dir()]
    places = places[:1] or [folder for folder in runs_dir.glob(f"*/{word}") if folder.is_dir()]
    if stages := [run for folder in places for run in read_stages(folder)]:
        return stages
    found = [run for folder in places for run in find(folder)]
    if not found:
        raise UserError(f"{word}: no run there; fgvc status lists the runs under {runs_dir}")
    return [read(folder) for folder in sorted(found)]
