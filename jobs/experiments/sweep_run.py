"""Run a sweep's trials, here or on a cluster, and write what they found."""

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from fgvc.runtime.interrupt import Interrupted
from fgvc.runtime.run_folder import open_run
from fgvc.study.search import ask
from jobs.config import hashed, load
from jobs.debug import debug_words, fresh_folder
from jobs.experiments.runners import Jobs, Processes
from jobs.experiments.sweep_config import Config, Words
from jobs.experiments.sweep_file import Sweep, job_config, plain, searched
from jobs.experiments.sweep_results import write_results
from jobs.experiments.trials import PlannedSweep, Runner, cap_of, read_trials, run_trials
from jobs.launch import read_profile, scratch_runs
from jobs.registry import command_module
from jobs.stale import refuse_other_shards
from shards.errors import UserError
from slurm.profile import Profile
from slurm.submit import Launch, sbatch_script

SHOWN = 5  # trials that --dry-run lists


def run(sweep: Sweep, config: Config, given: Words, on: str, dry: bool) -> int:
    """Run what is missing, or only list it; the exit code: 0 done, 1 trials failed, 3 stopped."""

    profile, more = None, []
    if on and on != "debug":
        if sweep.options:
            raise UserError(f"{sweep.file}: {' '.join(sweep.options)} is for this machine; on a cluster set nodes=")
        profile = read_profile(on, given.profile)
        if profile.scratch and config.runs_dir == Config.runs_dir:
            config.runs_dir = scratch_runs(profile)
        more = [f"data.cache={profile.cache}"] if profile.cache else []
    if on == "debug":
        more = debug_words(command_module(sweep.job), sweep.config, list(sweep.words))
    plan = PlannedSweep(
        sweep, Path(config.runs_dir) / "sweep" / config.name, config.run_cap, config.search_seed, tuple(more)
    )
    parallel = config.parallel or ((profile.throttle or 4) if profile else 1)
    if dry:
        return _dry_run(plan, profile, parallel)
    runner: Runner
    if profile is None:
        runner = Processes(parallel)
    else:
        runner = Jobs(profile, config.name, parallel)
        # All trials of these are known: Slurm throttles better than a driver that polls.
        parallel = parallel if sweep.method == "bayes" or sweep.metric.target is not None else 10**6
    began = time.monotonic()
    if on == "debug":
        fresh_folder(plan.folder)
    _refuse_others(sweep, plan)
    try:
        with open_run(config.runs_dir, "sweep", config.name, plain(sweep), _identity(sweep, config)) as folder:
            trials, failed = run_trials(plan, runner, parallel)
            print(write_results(plan, folder, trials, time.monotonic() - began))
    except Interrupted as stop:
        print(f"fgvc sweep: {stop}", file=sys.stderr)
        return 3
    for name, reason in failed.items():
        print(f"fgvc sweep: {name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _refuse_others(sweep: Sweep, plan: PlannedSweep) -> None:
    """Raise UserError for trials on shards that were made again since: their scores would choose the next ones."""
    config, known = load(job_config(sweep.job), sweep.config, list(sweep.words)), dict[Path, str]()
    for trial in read_trials(plan):
        refuse_other_shards(plan.command(trial).folder, config, known)


def _dry_run(plan: PlannedSweep, profile: Profile | None, parallel: int) -> int:

    trials = read_trials(plan)
    known, cap = len(trials), cap_of(plan)
    while len(trials) < min(cap, known + SHOWN):
        trial = ask(plan.sweep.method, plan.sweep.parameters, plan.seed, trials)
        if trial is None:
            break
        trials.append(trial)
    commands = [plan.command(trial) for trial in trials]
    for command in commands:
        print(f"{command.state:5} fgvc {shlex.join(command.words)}")
    if cap > len(commands):
        print(f"... {cap} trials in all" + (", later ones by what these show" if plan.sweep.method == "bayes" else ""))
    if profile is not None:
        launches = [
            Launch(f"sweep/{plan.folder.name}", command.words, command.folder)
            for command in commands
            if not command.done
        ]
        if launches:
            print("\n" + sbatch_script(profile, launches, throttle=parallel))
    return 0


def _identity(sweep: Sweep, config: Config) -> dict[str, Any]:
    """What makes a sweep another one: search, parameters, and every setting of its trials that can change a result."""
    base = hashed(load(job_config(sweep.job), sweep.config, list(sweep.words)))
    return {
        "method": sweep.method, "metric": sweep.metric.name, "goal": sweep.metric.goal,
        "search_seed": config.search_seed,
        **{f"parameters.{key}": value for key, value in searched(sweep).items()},
        **{f"{sweep.job}.{key}": value for key, value in base.items()},
    }  # fmt: skip
