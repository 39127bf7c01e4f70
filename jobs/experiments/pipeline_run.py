"""Run a pipeline's stages, here or as dependent jobs on a cluster; say what it would take."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fgvc.runtime.run_folder import GLANCE_S, RESULT, counted_time
from jobs.config import from_dict, nearest, to_dict
from jobs.experiments.machine import shares_of_machine
from jobs.experiments.pipeline_file import SHARDS, Config, Planned, config_of, home_of
from jobs.experiments.runners import job_says
from jobs.experiments.sequence import run_all
from jobs.launch import fetch_weights, launch_of, one_task
from jobs.registry import command_module
from jobs.states import STAGES, read_object
from shards.errors import UserError
from shards.files import write_json
from slurm.graph import Stage as JobStage
from slurm.graph import submit_graph, wait_for_graph
from slurm.profile import Profile, check, check_tasks
from slurm.submit import Launch, sbatch_script


def choose(planned: Sequence[Planned], start: str = "", until: str = "", only: Sequence[str] = ()) -> list[Planned]:
    """The stages from `start`, until `until`, or only those named. Raises UserError for unknown ones, and where a stage
    that one of them needs is not done."""
    names = [one.name for one in planned]
    for word in (start, until, *only):
        if word and word not in names:
            raise UserError(f"'{word}' is no stage{nearest(word, names)}; there are {', '.join(names)}")
    first = names.index(start) if start else 0
    last = names.index(until) if until else len(names) - 1
    chosen = [one for one in planned[first : last + 1] if not only or one.name in only]
    if not chosen:
        raise UserError("--from, --until and --only leave no stage")
    picked = {one.name for one in chosen}
    done = {one.name for one in planned if one.command.done}
    for one in chosen:
        if missing := [name for name in one.after if name not in picked | done]:
            raise UserError(f"stage {one.name} needs {missing[0]}, which is not done; leave out --from or --only")
    return chosen


@contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the lock of a pipeline's folder: one command at a time runs or submits its stages. Raises UserError when
    another does, and where the folder cannot be written."""
    home = home_of(config)
    lock = FileLock(home / ".lock", timeout=GLANCE_S)
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"{home}: in use by another fgvc pipeline; end it, or choose another name=") from None
    except OSError as error:
        raise UserError(f"{home}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    try:
        yield
    finally:
        lock.release()


def record_stages(config: Config, planned: Sequence[Planned]) -> None:
    """Write which stages there are, for `fgvc status`."""
    stages = [
        {"name": one.name, "folder": str(one.command.folder), "mark": str(one.command.folder / one.command.mark)}
        for one in planned
    ]
    write_json(home_of(config) / STAGES, stages)


def run(config: Config, planned: Sequence[Planned], chosen: Sequence[Planned], make: bool = True) -> dict[str, str]:
    """Run the chosen stages of all that are planned, until one fails; returns name -> reason of what failed.

    make=False: they were run elsewhere, and those that are not done have failed.
    Raises Interrupted after a signal, UserError when the pipeline's folder is in use.
    """
    home, began = home_of(config), time.monotonic()
    with locked(config), counted_time(home) as spent_s:
        waiting = [one for one in chosen if not one.command.done]
        if make:
            commands = [one.command for one in chosen]
            if config.at_once > 1:
                _check_gpus(config)
            after = {one.name: one.after for one in chosen}
            made = run_all(
                commands, f"pipeline {config.name}", first_failure_ends=True, after=after, at_once=config.at_once
            )
            failed = {name: failure.reason for name, failure in made.items()}
        else:
            failed = {one.name: job_says(one.command.folder) for one in chosen if not one.command.done}
        if all(one.command.done for one in planned):
            result = _result(planned, spent_s + time.monotonic() - began)
            before = read_object(home / RESULT)
            if waiting or before.get("stages") != result["stages"]:  # else nothing was done: not later
                write_json(home / RESULT, result)
    return failed


def _check_gpus(config: Config) -> None:
    """Raise UserError where a stage's ranks would be more than the GPUs of its share."""
    share = len(shares_of_machine(config.at_once)[0].gpus)
    if share and config.processes > share:
        raise UserError(
            f"processes={config.processes} with at_once={config.at_once}: a stage has {share} GPUs here, and "
            f"a rank needs one; set processes={share}"
        )


def submit(config: Config, planned: Sequence[Planned], profile: Profile, follow: bool) -> bool:
    """Submit what is not done as dependent jobs; whether all have ended. Raises UserError as `locked` does."""
    for warning in fetch_weights([config_of(one) for one in planned if one.job not in (SHARDS, "report")]):
        print(f"pipeline {config.name}: {warning}", flush=True)
    stages = job_stages(config, planned, profile)
    with locked(config):  # two at once would submit every stage twice
        submitted = submit_graph(profile, stages)
    jobs = sum(len(entries) for entries in submitted.values())
    done = sum(one.command.done for one in planned)
    print(f"pipeline {config.name}: {jobs} of {len(planned)} stages submitted, {done} done", flush=True)
    if follow:
        wait_for_graph(stages, lambda line: print(line, flush=True), lambda: time.sleep(2))
        return True
    print(f"  state   fgvc status pipeline/{config.name} runs_dir={config.runs_dir}\n  resume  the same command")
    return False


def job_stages(config: Config, planned: Sequence[Planned], profile: Profile) -> list[JobStage]:
    """The graph as Slurm gets it. Builds and reports get one task, and one GPU where there are GPUs; crop one task with
    those of a node."""
    names, stages = {one.name for one in planned}, []
    for one in planned:
        alone = {"nodes": 1, "gpus_per_node": min(profile.gpus_per_node, 1), "tasks_per_node": 0}
        limits = alone if one.job in (SHARDS, "ensemble", "report") else {"nodes": 1} if one.job == "crop" else {}
        own = from_dict(Profile, to_dict(profile) | limits | one.stage.resources, f"stage {one.name}: resources")
        check(own)
        check_tasks(own)
        launch = Launch(f"pipeline/{config.name}/{one.name}", one.words, one.command.folder)
        if one.job not in (SHARDS, "report"):
            job, *words = one.words
            path = Path(words.pop(0)) if one.stage.config else None
            if one.job == "crop":
                own, words = one_task(own, [*words, "processes=1"])  # `processes` is of this machine
            made, _ = launch_of(own, job, command_module(job).Config, path, list(words))
            launch = replace(launch, words=made.words)
        after = tuple(name for name in one.after if name in names)
        stages.append(JobStage(one.name, (launch,), after, profile=own, done=one.command.mark))
    return stages


def dry_run(config: Config, planned: Sequence[Planned], profile: Profile | None) -> str:
    """The graph: state, stage, what it waits for, time and GPU-hours as far as they are known, and the command."""
    lines, left, hours = [f"{'state':6}{'stage':16}{'after':28}{'minutes':>8}  command"], 0.0, 0.0
    own = {stage.name: stage.profile or profile for stage in job_stages(config, planned, profile)} if profile else {}
    for one in planned:
        minutes = _minutes(one)
        shown = f"{minutes:.1f}" if minutes else "?"
        after = ", ".join(one.after) or "-"
        lines.append(f"{one.command.state:6}{one.name:16}{after:28}{shown:>8}  fgvc {shlex.join(one.command.words)}")
        if not one.command.done:
            left += minutes
            if used := own.get(one.name):
                hours += minutes / 60 * used.nodes * used.gpus_per_node
    unknown = [one.name for one in planned if not one.command.done and not _minutes(one)]
    side = min(config.at_once, len(os.sched_getaffinity(0)))
    if side > 1 and profile is None:
        best = _minutes_at_once(planned, side)
        total = f"left: {best:.0f} minutes, {side} side by side, at best ({left:.0f} one after another)"
    else:
        total = f"left: {left:.0f} minutes one after another"
    total += f", {hours:.1f} GPU-hours" if profile else ""
    lines.append(total + (f", without {', '.join(unknown)}, whose time is unknown" if unknown else ""))
    if profile:
        graph = [stage for stage in job_stages(config, planned, profile) if stage.missing]
        lines += [sbatch_script(stage.profile or profile, stage.launches) for stage in graph]
    return "\n".join(lines)


def _minutes_at_once(planned: Sequence[Planned], side: int) -> float:
    """How long what is left takes with so many stages side by side, each as long as it takes alone."""
    left = [one for one in planned if not one.command.done]
    ends: dict[str, float] = {}
    running: list[str] = []
    now = 0.0
    while left or running:
        open_ = {one.name for one in left} | set(running)
        ready = [one for one in left if not open_ & set(one.after)][: side - len(running)]
        for one in ready:
            left.remove(one)
            running.append(one.name)
            ends[one.name] = now + _minutes(one)
        if not running:
            break  # what they need is not among those that were chosen
        now = min(ends[name] for name in running)
        running = [name for name in running if ends[name] > now]
    return now


def table(planned: Sequence[Planned]) -> str:
    """A line a stage: what it found, how long it took."""
    rows = [(one.name, one.command.state, *_found(one)) for one in planned]
    return "\n".join(f"  {name:16}{state:7}{seconds:>8}  {line}" for name, state, line, seconds in rows)


def _found(one: Planned) -> tuple[str, str]:
    result = read_object(one.command.folder / RESULT)
    if one.job in (SHARDS, "report") or not result:
        return str(
            Path(one.command.mark if one.job == SHARDS else one.command.folder).parent
        ) if one.command.done else "", ""
    return command_module(one.job).HEADLINE.line(result), f"{result.get('seconds', 0):.0f} s"


def _result(planned: Sequence[Planned], seconds: float) -> dict[str, Any]:
    stages = {
        one.name: {"job": one.job, "folder": str(one.command.folder), "headline": _found(one)[0],
                   "command": f"fgvc {shlex.join(one.command.words)}"}
        for one in planned
    }  # fmt: skip
    return {"stages": stages, "seconds": round(seconds, 1), "finished": time.strftime("%Y-%m-%d %H:%M:%S")}


def _minutes(one: Planned) -> float:
    """How long a stage takes: as it did, where it is done, else as the file says."""
    result = read_object(one.command.folder / RESULT) if one.job != SHARDS else {}
    return float(result["seconds"]) / 60 if "seconds" in result else one.stage.minutes
