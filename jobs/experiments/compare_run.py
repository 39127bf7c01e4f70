"""Make the runs of a comparison, here or on a cluster."""

import shlex
import time
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from fgvc.runtime.run_folder import GLANCE_S, METRICS, RESULT, counted_time
from jobs.config import load_command
from jobs.experiments.compare_results import write_results
from jobs.experiments.compare_rows import Config, Run
from jobs.experiments.runners import job_says
from jobs.experiments.sequence import run_all
from jobs.launch import fetch_weights, launch_of
from jobs.registry import command_module
from shards.errors import UserError
from slurm.errors import SlurmError
from slurm.graph import Stage, submit_graph, wait_for_graph
from slurm.profile import Profile
from slurm.queue import live_job, queue, read_record
from slurm.submit import Launch, sbatch_script


def run(config: Config, runs: list[Run], make: bool = True) -> dict[str, str]:
    """Make the runs that are not done, then the table; returns name -> reason of those that failed.

    make=False: those that are not done were made elsewhere, and have failed.

    Raises Interrupted after a signal, UserError when the comparison's folder is in use.
    """

    folder = Path(config.runs_dir) / "compare" / config.name
    began = time.monotonic()
    lock = FileLock(folder / ".lock", timeout=GLANCE_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: in use by another comparison; wait for it, end it, or choose another name="
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    with lock, counted_time(folder) as spent_s:
        if not all(planned.command.done for planned in runs):
            # It would tell others that the comparison is done, when it has only grown since.
            (folder / RESULT).unlink(missing_ok=True)
        if make:
            if done := sum(planned.command.done for planned in runs):
                print(f"compare {config.name}: {done} of {len(runs)} runs were done", flush=True)
            failed = _made(config, runs)
        else:
            failed = {
                planned.command.name: job_says(planned.command.folder) for planned in runs if not planned.command.done
            }
        print(write_results(config, runs, folder, failed, spent_s + time.monotonic() - began))
    lock.release()
    return failed


def _made(config: Config, runs: list[Run]) -> dict[str, str]:
    """Make what is not done: each row's first run, then the others, but of no row whose first one was refused before it
    began to train. With another seed or fold the same mistake would be told again, a thousand times at worst."""
    firsts = {planned.label: planned for planned in reversed(runs) if not planned.command.done}
    begin = [planned.command for planned in runs if firsts.get(planned.label) is planned]
    made = run_all(begin, f"compare {config.name}")
    failed = {name: failure.reason for name, failure in made.items()}
    refused = set()
    for label, first in firsts.items():
        name = first.command.name
        if name in made and made[name].code == 2 and not (first.command.folder / METRICS).is_file():
            refused.add(label)
            failed[name] += "; its row's other runs were not started"
    rest = [one.command for one in runs if one.label not in refused and one.command.name not in made]
    return failed | {name: failure.reason for name, failure in run_all(rest, f"compare {config.name}").items()}


def dry_run(config: Config, runs: list[Run], profile: Profile | None) -> None:
    """Print every run's command and state; with a profile, the batch script of the missing ones."""
    for planned in runs:
        print(f"{planned.command.state:5} fgvc {shlex.join(planned.command.words)}")
    if profile is not None and (missing := [planned for planned in runs if not planned.command.done]):
        print("\n" + sbatch_script(profile, _launches(config, missing, profile)))


def submit(config: Config, runs: list[Run], profile: Profile, follow: bool) -> bool:
    """Submit the missing runs as an array; whether all have ended, so that the table can be written."""
    missing = [planned.command.words for planned in runs if not planned.command.done]
    for warning in fetch_weights(load_command(words) for words in missing):
        print(f"compare {config.name}: {warning}", flush=True)
    stages = [Stage(config.name, tuple(_launches(config, runs, profile)))]
    submitted = submit_graph(profile, stages)[config.name]
    ids = ", ".join(dict.fromkeys(job.job.split("_")[0] for job in submitted)) or "nothing new"
    done = sum(planned.command.done for planned in runs)
    print(f"compare {config.name}: {len(submitted)} of {len(runs)} runs submitted ({ids}), {done} done", flush=True)
    if follow:
        wait_for_graph(stages, lambda line: print(line, flush=True), lambda: time.sleep(2))
        return True
    print(
        f"  state   fgvc status runs_dir={config.runs_dir}/compare/{config.name}\n"
        "  table   the same command without --on, once they have ended; or now with --follow"
    )
    return False


def _launches(config: Config, runs: list[Run], profile: Profile) -> list[Launch]:
    kind, launches = command_module(config.job).Config, []
    for planned in runs:
        job, file, *words = planned.command.words
        launch, _ = launch_of(profile, job, kind, Path(file), list(words))
        launches.append(replace(launch, name=f"compare/{config.name}"))
    return launches


def check_queue(runs: list[Run]) -> None:
    """Raise UserError when a run is in a cluster's queue: made here too, it would be made twice."""
    missing = [planned.command.folder for planned in runs if not planned.command.done]
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
