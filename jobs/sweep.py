"""fgvc sweep: hyperparameter search from a W&B sweep file: grid, random or Bayesian, without internet or account.

    fgvc sweep configs/sweeps/field_guide.yaml                    here, one trial after another
    fgvc sweep FILE parallel=4                                    here, four at once, each on a GPU of its own
    fgvc sweep FILE --on h100 nodes=2 parallel=8                  each trial a Slurm job of two nodes, at most 8 at once
    fgvc sweep FILE train.epochs=5 run_cap=20                     key=value for every trial; how many trials
    fgvc sweep FILE --dry-run                                     the first trials (with --on: the batch script too)
    fgvc sweep FILE --on debug                                    two trials of 20 steps on 64 images
    fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on h100            W&B's server chooses the trials (wandb sweep FILE)

The metric is measured on a held-out fold of train, never on the test split. Every trial is an ordinary run in
<runs_dir>/sweep/<name>/<job>/trial-000, 001, ...; what a killed driver had started goes on when the same command is
given again, nothing is run twice, failed trials are tried again. To read in <runs_dir>/sweep/<name>/: table.md,
sweep.png, result.json (the best trial), trials.jsonl, and what each trial printed in logs/ or slurm/.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jobs.config import describe, hashed, load, nearest, walk
from jobs.experiments.sweep_file import Sweep, job_config, read_sweep
from jobs.registry import command_module
from jobs.words import Parser
from shards.errors import UserError
from shards.options import option

SHOWN = 5  # trials that --dry-run lists


@dataclass
class Config:
    """What a sweep takes on the command line beside its file."""

    name: str = option("", "the folder's name (empty: the file's)")
    runs_dir: str = option("runs", "folder of all runs")
    parallel: Annotated[int, Ge(0)] = option(0, "trials at once (0: here 1; on a cluster the profile's throttle, or 4)")
    run_cap: Annotated[int, Ge(0)] = option(0, "trials in all (0: the file's run_cap; of a grid all)")
    search_seed: Annotated[int, Ge(0)] = option(0, "of the search; the trials' own seed is a setting like others")


def main(words: list[str]) -> int:
    """`fgvc sweep WORDS`; the exit code: 0 done, 1 trials failed, 3 stopped.

    Raises UserError or SlurmError for a user's mistake.
    """
    if words[:1] == ["agent"]:
        from jobs.experiments.sweep_agent import main as agent

        return agent(words[1:])
    arguments = _parse(words)
    if arguments.help:
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    given = _sorted_words(arguments.words, arguments.on)
    sweep = read_sweep(given.file, given.trials)
    config = load(Config, None, given.own)
    if arguments.on == "debug":
        config.run_cap = min(config.run_cap or sweep.run_cap or 2, 2)
    config.name = config.name or given.file.stem + ("-debug" if arguments.on == "debug" else "")
    config.run_cap = config.run_cap or sweep.run_cap
    if not config.run_cap and sweep.method != "grid":
        raise UserError(
            f"{given.file}: run_cap is missing: a {sweep.method} sweep has no end of its own; set run_cap=20"
        )
    if arguments.print_config:
        print(json.dumps({"sweep": _plain(sweep), "run": vars(config)}, indent=2))
        return 0
    return _sweep(sweep, config, given, arguments)


def _sweep(sweep: Sweep, config: Config, given: "_Words", arguments: argparse.Namespace) -> int:
    from fgvc.runtime.interrupt import Interrupted
    from fgvc.runtime.run_folder import open_run
    from jobs.experiments.runners import Jobs, Processes
    from jobs.experiments.trials import Plan, Runner, run_trials

    profile, more = None, []
    if arguments.on and arguments.on != "debug":
        from jobs.launch import read_profile, scratch_runs

        if sweep.options:
            raise UserError(f"{sweep.file}: {' '.join(sweep.options)} is for this machine; on a cluster set nodes=")
        profile = read_profile(arguments.on, given.profile)
        if profile.scratch and config.runs_dir == Config.runs_dir:
            config.runs_dir = scratch_runs(profile)
        more = [f"data.cache={profile.cache}"] if profile.cache else []
    if arguments.on == "debug":
        more = _debug_words(sweep.job)
    plan = Plan(sweep, Path(config.runs_dir) / "sweep" / config.name, config.run_cap, config.search_seed, tuple(more))
    parallel = config.parallel or ((profile.throttle or 4) if profile else 1)
    if arguments.dry_run:
        return _dry_run(plan, profile, parallel)
    runner: Runner
    if profile is None:
        runner = Processes(parallel)
    else:
        runner = Jobs(profile, config.name, parallel)
        # All trials of these are known: Slurm throttles better than a driver that looks now and then.
        parallel = parallel if sweep.method == "bayes" or sweep.metric.target is not None else 10**6
    began = time.monotonic()
    try:
        with open_run(config.runs_dir, "sweep", config.name, _plain(sweep), _identity(sweep, config)) as folder:
            trials, failed = run_trials(plan, runner, parallel)
            print(_write_results(plan, folder, trials, time.monotonic() - began))
    except Interrupted as stop:
        print(f"fgvc sweep: {stop}", file=sys.stderr)
        return 3
    for name, reason in failed.items():
        print(f"fgvc sweep: {name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _dry_run(plan: Any, profile: Any, parallel: int) -> int:
    from fgvc.study.search import ask
    from jobs.experiments.trials import cap_of, read_trials

    trials = read_trials(plan)
    known, cap = len(trials), cap_of(plan)
    while len(trials) < min(cap, known + SHOWN):
        trial = ask(plan.sweep.method, plan.sweep.parameters, plan.seed, trials)
        if trial is None:
            break
        trials.append(trial)
    commands = [plan.command(trial) for trial in trials]
    for command in commands:
        state = "done " if command.done else "begun" if command.begun else "new  "
        print(f"{state} fgvc {shlex.join(command.words)}")
    if cap > len(commands):
        print(f"... {cap} trials in all" + (", later ones by what these show" if plan.sweep.method == "bayes" else ""))
    if profile is not None:
        from slurm.submit import Launch, sbatch_script

        tasks = [Launch(f"sweep/{plan.folder.name}", one.words, one.folder) for one in commands if not one.done]
        if tasks:
            print("\n" + sbatch_script(profile, tasks, throttle=parallel))
    return 0


def _write_results(plan: Any, folder: Any, trials: list[Any], seconds: float) -> str:
    """Write table.md, sweep.png and, unless trials failed, result.json; the text for the terminal."""
    from fgvc.runtime.run_folder import finish
    from fgvc.study.search_report import plot, table
    from shards.files import write_bytes

    metric, names = plan.sweep.metric, {trial.number: plan.command(trial).name for trial in trials}
    text = table(trials, names, metric.name, metric.sign)
    done = [trial for trial in trials if trial.score is not None]
    write_bytes(folder.path / "table.md", f"# {plan.folder.name}\n\n{text}\n".encode())
    if not done:
        return text
    best = max(done, key=lambda one: one.score)
    command = plan.command(best)
    plot(folder.path / "sweep.png", plan.sweep.parameters, trials, metric.name, metric.sign,
         f"{plan.folder.name}: {len(done)} trials, best {metric.name} {metric.sign * best.score:.4f}")  # fmt: skip
    result = json.loads((command.folder / "result.json").read_text())
    settings = shlex.join(f"{key}={_text(value)}" for key, value in best.values.items())
    if len(done) == len(trials):
        record = {
            "best": {"trial": command.name, "metric": metric.name, "value": metric.sign * best.score,
                     "settings": best.values, "folder": str(command.folder)},
            "trials": {names[one.number]: metric.sign * one.score for one in done}, "method": plan.sweep.method,
            "val": result["val"],
        }  # fmt: skip
        finish(folder, record, result["inputs"], seconds)
    images = f" of {result['val']['count']} held-out images" if "count" in result["val"] else ""
    return (
        f"{text}\n\nbest: {command.name}, {metric.name} {metric.sign * best.score:.4f}{images}, with {settings}\n"
        f"The best of {len(done)} on one fold looks better than it is{_on_all_folds(plan, command)}\n"
        f"look at {folder.path}: table.md, sweep.png, result.json, trials.jsonl, {plan.sweep.job}/"
    )


def _on_all_folds(plan: Any, command: Any) -> str:
    """The comparison that measures a trial as it was, on every fold; nothing for jobs that cannot be compared."""
    if plan.sweep.job != "classify":
        return "."
    from jobs.experiments.compare_rows import OWN

    of_trial = {*OWN, "track.group"}
    words = [word for word in command.words[2:] if "=" in word and word.partition("=")[0] not in of_trial]
    return (
        "; measure it on all folds before relying on it:\n"
        f"  fgvc compare {shlex.join([str(plan.sweep.config), 'folds=5', *words])}"
    )


def _identity(sweep: Sweep, config: Config) -> dict[str, Any]:
    """What makes a sweep another one: search, parameters, and every setting of its trials that can change a result."""
    base = hashed(load(job_config(sweep.job), sweep.config, list(sweep.words)))
    return {
        "method": sweep.method, "metric": sweep.metric.name, "goal": sweep.metric.goal,
        "search_seed": config.search_seed,
        **{f"parameters.{one.key}": {"distribution": one.distribution, **one.options} for one in sweep.parameters},
        **{f"{sweep.job}.{key}": value for key, value in base.items()},
    }  # fmt: skip


@dataclass(frozen=True)
class _Words:
    file: Path
    own: list[str]
    profile: list[str]
    trials: list[str]


def _sorted_words(words: list[str], on: str) -> _Words:
    """The command line's words, apart: the file, the sweep's own settings, the cluster's, those of every trial."""
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        said = (
            f"one at a time, here are {' and '.join(files)}" if files else "which? fgvc sweep configs/sweeps/NAME.yaml"
        )
        raise UserError(f"a sweep file is wanted, {said}")
    file = Path(files[0])
    settings = [word for word in words if "=" in word]
    profile: list[str] = []
    if on and on != "debug":
        from jobs.launch import split_words

        profile, settings = split_words(settings)
    own_keys = [one.name for one in fields(Config)]
    own = [word for word in settings if word.partition("=")[0] in own_keys]
    trials = [word for word in settings if word not in own]
    known = [key for key, _ in walk(job_config("classify"))]
    for word in trials:
        key = word.partition("=")[0]
        if "." not in key and key not in known:
            raise UserError(f"'{word}': unknown key '{key}'{nearest(key, [*own_keys, *known])}")
    return _Words(file, own, profile, trials)


def _debug_words(job: str) -> list[str]:

    return list(command_module(job).DEBUG)


def _plain(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain values, for config.yaml."""
    return {
        "file": str(sweep.file), "command": ["fgvc", sweep.job, str(sweep.config), *sweep.words, *sweep.options],
        "method": sweep.method, "metric": vars(sweep.metric), "run_cap": sweep.run_cap,
        "parameters": {one.key: {"distribution": one.distribution, **one.options} for one in sweep.parameters},
    }  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("fgvc sweep", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--on", default="")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    return parser.parse_intermixed_args(words)
