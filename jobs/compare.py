"""fgvc compare: several configs x seeds x folds, with paired intervals. Touches no test split unless asked to.

    fgvc compare configs/compare/origin_cub50.yaml                   rows from a comparison file
    fgvc compare a.yaml b.yaml seeds=3 folds=5 use_folds=2           rows are these classify configs
    fgvc compare a.yaml b.yaml train.epochs=5 name=short             key=value for every run
    fgvc compare CONFIG... --dry-run                                 only list the runs
    fgvc compare CONFIG... --on debug                                20 steps on 64 images each
    fgvc compare CONFIG... --on h100 throttle=8                      every run a Slurm job, at most 8 at once
    fgvc compare CONFIG... --on h100 --follow                        the same, and the table once all have ended

Every row sees the same seeds and the same folds of the training split. Each (row, seed, fold) is one fgvc classify run
in a process of its own, in <runs_dir>/compare/<name>/classify/; what is done is skipped, so the same command goes on
after a kill, and more seeds or rows can be added. A run that fails is named, the rest goes on, the exit code is 1.
With --on CLUSTER the missing runs are submitted as an array; the same command again submits what failed, and without
--on it writes the table of what is there once no run is in the queue any more.
To read in <runs_dir>/compare/<name>/: table.md, comparison.png, result.json, and what each run printed in logs/.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import describe, to_dict
from jobs.experiments.compare_rows import Config, Run, check, fold_count, list_runs, read
from jobs.experiments.sequence import run_all
from jobs.words import Parser
from shards.errors import UserError

if TYPE_CHECKING:
    from slurm.profile import Profile
    from slurm.submit import Launch


def main(words: list[str]) -> int:
    """`fgvc compare WORDS`; the exit code: 0 done, 1 runs failed, 3 stopped. Raises UserError for a user's mistake."""
    arguments = _parse(words)
    if arguments.help:
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    cluster = "" if arguments.on == "debug" else arguments.on
    profile, own = _profile(cluster, arguments.words)
    config = read(own, debug=arguments.on == "debug")
    if profile is not None and profile.scratch and config.runs_dir == Config.runs_dir:
        from jobs.launch import scratch_runs

        config.runs_dir = scratch_runs(profile)
    runs = list_runs(config)
    check(config, runs)
    if arguments.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    if arguments.dry_run:
        for one in runs:
            state = "done " if one.command.done else "begun" if one.command.begun else "new  "
            print(f"{state} fgvc {shlex.join(one.command.words)}")
        if profile is not None and (missing := [one for one in runs if not one.command.done]):
            from slurm.submit import sbatch_script

            print("\n" + sbatch_script(profile, _tasks(config, missing, profile)))
        return 0
    from fgvc.runtime.interrupt import Interrupted

    try:
        if profile is not None:
            submitted = _submit(config, runs, profile, arguments.follow)
            if submitted is not None:
                return submitted
        else:
            _check_queue(runs)
        failed = run(config, runs, make=profile is None)
    except Interrupted as stop:
        print(f"fgvc compare: {stop}", file=sys.stderr)
        return 3
    for name, reason in failed.items():
        print(f"fgvc compare: run {name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def run(config: Config, runs: list[Run], make: bool = True) -> dict[str, str]:
    """Make the runs that are not done, then the table; returns name -> reason of those that failed.

    make=False: those that are not done were made elsewhere, and have failed.

    Raises Interrupted after a signal, UserError when the comparison's folder is in use.
    """
    from filelock import FileLock, Timeout

    from fgvc.runtime.run_folder import RESULT

    folder = Path(config.runs_dir) / "compare" / config.name
    began = time.monotonic()
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: in use by another comparison; wait for it, end it, or choose another name="
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    with lock:
        if not all(one.command.done for one in runs):
            # It would tell others that the comparison is done, when it has only grown since.
            (folder / RESULT).unlink(missing_ok=True)
        if make:
            failed = run_all([one.command for one in runs], f"compare {config.name}")
        else:
            failed = {one.command.name: _job_says(one) for one in runs if not one.command.done}
        print(write_results(config, runs, folder, failed, time.monotonic() - began))
    lock.release()
    return failed


def _profile(cluster: str, words: list[str]) -> tuple["Profile | None", list[str]]:
    """The cluster's profile, if one is named, and the words that are not its settings."""
    if not cluster:
        return None, words
    from jobs.launch import read_profile, split_words

    for_profile, own = split_words(words)
    return read_profile(cluster, for_profile), own


def _submit(config: Config, runs: list[Run], profile: "Profile", follow: bool) -> int | None:
    """Submit the missing runs as an array; the exit code, or None once all have ended and the table can be written."""
    from slurm.graph import Stage, submit_graph, wait_for_graph

    nodes = [Stage(config.name, tuple(_tasks(config, runs, profile)))]
    submitted = submit_graph(profile, nodes)[config.name]
    ids = ", ".join(dict.fromkeys(one.job.split("_")[0] for one in submitted)) or "nothing new"
    done = sum(one.command.done for one in runs)
    print(f"compare {config.name}: {len(submitted)} of {len(runs)} runs submitted ({ids}), {done} done", flush=True)
    if follow:
        wait_for_graph(nodes, lambda line: print(line, flush=True), lambda: time.sleep(2))
        return None
    print(
        f"  state   fgvc status runs_dir={config.runs_dir}/compare/{config.name}\n"
        "  table   the same command without --on, once they have ended; or now with --follow"
    )
    return 0


def _tasks(config: Config, runs: list[Run], profile: "Profile") -> list["Launch"]:
    from dataclasses import replace

    from jobs.classify import Config as ClassifyConfig
    from jobs.launch import launch_of

    tasks = []
    for one in runs:
        job, file, *words = one.command.words
        task, _ = launch_of(profile, job, ClassifyConfig, Path(file), list(words))
        tasks.append(replace(task, name=f"compare/{config.name}"))
    return tasks


def _check_queue(runs: list[Run]) -> None:
    """Raise UserError when a run is in a cluster's queue: made here too, it would be made twice."""
    from slurm.errors import SlurmError
    from slurm.queue import live_job, queue, read_record

    missing = [one.command.folder for one in runs if not one.command.done]
    if not any(read_record(folder) for folder in missing):
        return
    try:
        queued = queue()
    except SlurmError:  # no cluster here: nothing runs on it
        return
    live = [job for folder in missing if (job := live_job(folder, queued)) is not None]
    if live:
        raise UserError(
            f"{len(live)} runs are in the queue, such as job {live[0].id} ({live[0].state}); wait for them, or use "
            "--on CLUSTER --follow"
        )


def _job_says(one: Run) -> str:
    from jobs.experiments.runners import job_says

    return job_says(one.command.folder)


def write_results(config: Config, runs: list[Run], folder: Path, failed: dict[str, str], seconds: float) -> str:
    """Write table.md and comparison.png from the runs' folders, and result.json unless runs failed; returns the text
    for the terminal."""
    from fgvc.runtime.run_folder import RunFolder, finish
    from fgvc.study.comparison import Measured, as_record, figures, read_run, table
    from fgvc.study.comparison_plot import accuracy_and_cost
    from shards.files import write_bytes

    measured: dict[str, list[Measured]] = {row.label: [] for row in config.rows}
    for one in runs:
        found = read_run(one.command.folder, one.seed, one.fold)
        if found is not None:
            measured[one.label].append(found)
    split = "val" if config.folds else "test"
    rows = figures(measured, split, config.seeds, fold_count(config) if config.folds else 0)
    touched = {row.label: row.test_runs for row in rows if row.test_runs}
    headline = _headline(config, max(row.images for row in rows))
    text = "\n\n".join([headline, table(rows), notes(touched, failed)])
    write_bytes(folder / "table.md", f"# {config.name}\n\n{text}\n".encode())
    accuracy_and_cost(folder / "comparison.png", rows, headline)
    look = f"{text}\n\nlook at {folder}: table.md, comparison.png, result.json, logs/"
    if failed:
        return look.replace("result.json, ", "")
    record = {
        "rows": [as_record(row) for row in rows], "split": split, "touched_test": touched,
        "config": to_dict(config), "runs": {one.command.name: str(one.command.folder) for one in runs},
    }  # fmt: skip
    inputs = {run.result["inputs"]["shards"] for group in measured.values() for run in group}
    finish(RunFolder(folder, None), record, {"shards": sorted(inputs)}, seconds)
    return look


def _headline(config: Config, images: int) -> str:
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    if not config.folds:
        return f"Top-1 on the test split ({images} images), {seeds}."
    used = fold_count(config)
    folds = f"all {used} folds" if used == config.folds else f"{used} of {config.folds} folds"
    return f"Top-1 on held-out training images ({images}, {folds}), {seeds}."


def notes(touched: dict[str, int], failed: dict[str, str]) -> str:
    """What stands under the table: how to read it, which rows touched the test split, which runs failed."""
    lines = [
        "Differences are to the first row, with a paired bootstrap interval over images; time is a run's wall time."
    ]
    if touched:
        rows, count = len(touched), sum(touched.values())
        lines.append(
            f"**{rows} row{'s' * (rows > 1)} touched the test split, {count} measurement{'s' * (count > 1)} in all: "
            f"{', '.join(touched)}.**"
        )
    else:
        lines.append("No row touched the test split.")
    lines += [f"Failed: {name}: {reason}" for name, reason in failed.items()]
    return "\n\n".join(lines)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("fgvc compare", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--on", default="")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    return parser.parse_intermixed_args(words)
