"""fgvc sweep agent: trials that W&B's server chooses, each as a Slurm job of any number of nodes.

    wandb sweep configs/sweeps/cub200_resnet50.yaml                    makes the sweep, prints its id
    fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on h100 nodes=2         one trial after another, two nodes each
    fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on h100 parallel=8      eight at once
    fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on h100 count=20        no more than 20 trials of this agent

Rank 0 of a trial owns its W&B run. A job that is preempted or requeued resumes the same run from its checkpoint;
a trial outlives an agent that is killed. On one machine, without --on, plain `wandb agent SWEEP_ID` does.
Runs lie in <runs_dir>/sweep/<SWEEP_ID>/<job>/<W&B's run id>/. Without internet: fgvc sweep FILE, no server needed.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jobs.config import describe, held_out_only, load, load_command, read_yaml
from jobs.experiments.runners import job_says
from jobs.experiments.sweep_file import flat, job_config, split_command, trial_words_of, unguarded
from jobs.launch import fetch_weights, read_profile, scratch_runs, split_words
from jobs.words import Parser
from shards.errors import UserError
from shards.options import option
from slurm.graph import Stage, submit_graph
from slurm.profile import Profile
from slurm.queue import live_job, queue
from slurm.submit import Launch

ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,127}")  # of W&B's runs and sweeps, which become folders' names
POLL_S = 5.0  # between queries of a trial's job
PASSED_ON = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_ENTITY", "WANDB_PROJECT")


@dataclass
class Config:
    """What an agent takes on the command line beside the sweep's id and the cluster's settings."""

    runs_dir: str = option("runs", "folder of all runs")
    parallel: Annotated[int, Ge(1)] = option(1, "trials at once")
    count: Annotated[int, Ge(0)] = option(
        0, "trials of this agent, of each of the parallel ones (0: until the sweep ends)"
    )


def main(words: list[str]) -> int:
    """`fgvc sweep agent WORDS`. Raises UserError or SlurmError for a user's mistake."""
    if {"-h", "--help"} & set(words):
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    sweep, config, profile = read(words)
    if config.parallel > 1:
        return _several(config.parallel, ["agent", *[word for word in words if not word.startswith("parallel=")]])
    return _agent(sweep, config, profile)


def read(words: list[str]) -> tuple[str, Config, Profile]:
    """The sweep's id, the agent's settings and the cluster; W&B is not asked. Raises UserError as `main` does."""
    arguments = _parse(words)
    for_profile, rest = split_words(arguments.words)
    names = [word for word in rest if "=" not in word]
    if len(names) != 1:
        raise UserError(
            "which sweep? fgvc sweep agent ENTITY/PROJECT/SWEEP_ID --on CLUSTER; wandb sweep FILE prints the id"
        )
    if not arguments.on or arguments.on == "debug":
        raise UserError(f"--on CLUSTER is missing; on this machine use wandb agent {names[0]}")
    config = load(Config, None, [word for word in rest if "=" in word])
    profile = read_profile(arguments.on, for_profile)
    if profile.scratch and config.runs_dir == Config.runs_dir:
        config.runs_dir = scratch_runs(profile)
    return names[0], config, profile


def _agent(sweep_path: str, config: Config, profile: Profile) -> int:
    """Serve a sweep until it ends; the exit code."""
    import wandb

    try:
        sweep = wandb.Api().sweep(sweep_path)
        given = dict(sweep.config)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise UserError(
            f"{sweep_path}: {' '.join(str(error).split())[:300]}; wandb login, and wandb sweep FILE"
        ) from None
    job, rest = split_command(given.get("command") or [], str(given.get("program", "")), sweep_path)
    folder = Path(config.runs_dir).absolute() / "sweep" / checked_id(sweep.id)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_DIR"] = str(folder)  # where W&B leaves each trial's settings for the job to read

    def one_trial() -> None:
        run_id = os.environ["WANDB_RUN_ID"]
        values = {key: entry["value"] for key, entry in read_yaml(Path(os.environ["WANDB_SWEEP_PARAM_PATH"])).items()
                  if isinstance(entry, dict) and not key.startswith("_")}  # fmt: skip
        task = trial_task(job, rest, flat(values), folder, run_id)
        for warning in fetch_weights([load_command(task.words)]):
            print(f"{task.name}: {warning}", flush=True)
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        run_job(replace(profile, env=profile.env | passed), task)

    wandb.agent(sweep_path, function=one_trial, count=config.count or None)
    return 0


def trial_task(job: str, words: list[str], values: dict[str, Any], folder: Path, run_id: str) -> Launch:
    """The task of a trial, whose run folder is `<folder>/<job>/<run_id>`.

    Raises UserError for settings that the job refuses, and for an id that is no folder's name.
    """
    run_id = checked_id(run_id)
    settings = [word for word in words if "=" in word]
    own = {"name": run_id, "runs_dir": str(folder)} | held_out_only(job_config(job))
    settings = trial_words_of(settings, unguarded(job_config(job), settings) | values, own)
    files = [word for word in words if "=" not in word]
    if len(files) != 1:
        raise UserError(f"command: expected one config file after {job}, found {files}")
    load(job_config(job), files[0], settings)
    return Launch(f"sweep/{folder.name}", (job, files[0], *settings), folder / job / run_id)


def checked_id(text: str) -> str:
    """An id that a W&B server gave, as it is. Raises UserError for one that would lead out of a folder."""
    if not ID.fullmatch(text):
        raise UserError(f"W&B's id {text[:130]!a}: not a folder's name; ids of letters, digits and _ - . are expected")
    return text


def run_job(profile: Profile, task: Launch) -> None:
    """Submit a trial, unless it is done or in the queue, and return when it has ended; RuntimeError when it failed."""
    submit_graph(profile, [Stage("trial", (task,))])
    missed = 0
    while not (task.folder / "result.json").is_file():
        missed = 0 if live_job(task.folder, queue()) else missed + 1
        if missed > 1:
            raise RuntimeError(job_says(task.folder))
        time.sleep(POLL_S)


def _several(count: int, words: list[str]) -> int:
    """So many agents, each a process: W&B's agent runs one trial at a time."""
    agents = [subprocess.Popen([sys.executable, "-m", "jobs.cli", "sweep", *words]) for _ in range(count)]
    try:
        return max(agent.wait() for agent in agents)
    finally:
        for agent in agents:
            if agent.poll() is None:
                agent.terminate()


def _parse(words: list[str]) -> argparse.Namespace:
    parser = Parser("fgvc sweep agent", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--on", default="")
    return parser.parse_intermixed_args(words)
