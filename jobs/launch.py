"""`--on CLUSTER`: the same command as a Slurm job. Reads the profile, checks everything, submits, says how to follow.

fgvc classify CONFIG --on h100 nodes=4 time=8:00:00    settings of the cluster's profile stand beside the job's own
fgvc classify CONFIG --on h100 --dry-run               print the batch script, submit nothing
fgvc classify CONFIG --on h100 --follow                submit, then print the job's log until it ends
"""

import math
import shlex
import time
from pathlib import Path
from typing import Any

from fgvc.runtime.run_folder import refuse_another_config
from jobs.config import hashed, load, nearest, walk
from shards.errors import UserError
from slurm.errors import SlurmError
from slurm.profile import KEYS, Profile, check
from slurm.queue import Job, states
from slurm.submit import Submitted, Task, sbatch_script, submit

ASK_S = 5  # Slurm's controller serves everybody: ask it seldom
FOLDERS = (Path("configs/clusters"), Path(__file__).parents[1] / "configs/clusters")


def read_profile(cluster: str, words: list[str]) -> Profile:
    """The profile of `configs/clusters/<cluster>.yaml`, or of a file named in full, with `key=value` words on top.

    Raises UserError for an unknown cluster or setting, SlurmError for settings that do not fit together.
    """
    known = {file.stem: file for folder in reversed(FOLDERS) for file in sorted(folder.glob("*.yaml"))}
    path = Path(cluster) if cluster.endswith((".yaml", ".yml")) else known.get(cluster)
    if path is None:
        raise UserError(
            f"--on {cluster}: no such cluster{nearest(cluster, [*known, 'debug'])}; there are debug, "
            f"{', '.join(sorted(known))}, or a profile's file"
        )
    profile = load(Profile, path, words)
    check(profile)
    return profile


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """(settings of the profile, all others): no job has a setting of a profile's name (a test holds that)."""
    launch = [word for word in words if word.partition("=")[0].split(".")[0] in KEYS and "=" in word]
    return launch, [word for word in words if word not in launch]


def task_of(profile: Profile, job: str, kind: type, path: Path | None, words: list[str]) -> tuple[Task, Any]:
    """The command `fgvc <job> <path> <words>` on that cluster, and its config; folders as the profile says.

    Raises UserError for a mistake in the config, or when its run folder holds a run of another config.
    """
    config: Any = load(kind, path, words)
    if profile.scratch and config.runs_dir == kind().runs_dir:
        words = [*words, f"runs_dir={scratch_runs(profile)}"]
    if profile.cache and "data.cache" in dict(walk(kind)) and not config.data.cache:
        words = [*words, f"data.cache={profile.cache}"]
    config = load(kind, path, words)
    name = str(config.name or (path.stem if path else job))
    folder = Path(config.runs_dir) / job / name
    refuse_another_config(folder, hashed(config), partial=True)
    return Task(f"{job}/{name}", (job, *([str(path)] if path else []), *words), folder), config


def launch(job: str, module: Any, cluster: str, path: Path | None, words: list[str], dry: bool, follow: bool) -> int:
    """Submit a job, or print its batch script; the exit code. Raises UserError or SlurmError for a user's mistake."""
    for_profile, own = split_words(words)
    profile = read_profile(cluster, for_profile)
    task, _ = task_of(profile, job, module.Config, path, own)
    if dry:
        print(sbatch_script(profile, [task]))
        return 0
    if (task.folder / "result.json").is_file():
        print(f"{task.folder}: this run is done; nothing was submitted. Its figures: {task.folder / 'result.json'}")
        return 0
    [submitted] = submit(profile, [task])
    size = f"{profile.nodes} node{'s' * (profile.nodes > 1)} x {profile.ranks_per_node} rank"
    print(
        f"job {submitted.job}: {task.name} on {cluster}, {size}{'s' * (profile.ranks_per_node > 1)}\n"
        f"  folder  {task.folder}\n"
        f"  follow  tail -F {shlex.quote(str(submitted.log))}\n"
        f"  state   fgvc status {task.folder}\n"
        f"  cancel  fgvc cancel {submitted.job}",
        flush=True,
    )
    return follow_log(submitted) if follow else 0


def follow_log(submitted: Submitted, pause_s: float = 0.5) -> int:
    """Print the log as it grows, through restarts, until the job has ended; 0 when it ended well, else 1.

    Ctrl-C leaves the job running.
    """
    seen, shown, job, asked = 0, "", Job(submitted.job, "", "PENDING"), -math.inf
    try:
        while True:
            ended = False
            if time.monotonic() - asked > ASK_S:
                try:
                    job = states([submitted.job])[submitted.job]
                    ended = not job.live
                except SlurmError as error:  # the controller may be away; the job goes on without it
                    if (line := f"no word from Slurm: {error}") != shown:
                        print(line, flush=True)
                        shown = line
                asked = time.monotonic()
            if submitted.log.is_file():
                with submitted.log.open("rb") as stream:
                    stream.seek(seen)
                    new = stream.read()
                seen += len(new)
                print(new.decode(errors="replace"), end="", flush=True)
            elif (line := f"{job.state} {job.reason}".strip()) != shown:
                print(f"job {job.id}: {line}", flush=True)
                shown = line
            if ended:
                break
            time.sleep(pause_s)
    except KeyboardInterrupt:
        print(f"\njob {submitted.job} goes on; fgvc cancel {submitted.job} ends it")
        return 130
    print(f"job {job.id}: {job.state}")
    if job.state != "COMPLETED" and not submitted.log.is_file():
        print(
            f"it wrote no log: its node may not see {submitted.log.parent}; set runs_dir= to a folder all nodes share"
        )
    return 0 if job.state == "COMPLETED" else 1


def scratch_runs(profile: Profile) -> str:
    """The folder of runs on the file system that a profile's `scratch` names."""
    from shards.paths import expand

    return f"{expand(profile.scratch, 'scratch')}/runs"
