"""Submit fgvc commands to Slurm: one as a job, many as arrays, after others or not. Built on submitit."""

import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.client import ask, explained, outside
from slurm.errors import SlurmError
from slurm.job import Run
from slurm.profile import Profile, check, check_cluster
from slurm.queue import RECORD, live_job, queue

RESTART = Path(__file__).with_name("restart.sh")


@dataclass(frozen=True)
class Task:
    """One fgvc command: `words` after `fgvc`, whose run folder is `folder`. `name` is what squeue shows."""

    name: str
    words: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Submitted:
    """A task that Slurm has: its job id (`123`, or `123_4` in an array) and the file that rank 0 and Slurm write to."""

    task: Task
    job: str
    log: Path


def submit(
    profile: Profile, tasks: Sequence[Task], *, after: Sequence[str] = (), throttle: int = 0, folder: Path | None = None
) -> list[Submitted]:
    """Submit tasks, in their order: one as a job, several as an array, split where the cluster's MaxArraySize says.

    after: ids of jobs that have to end well first; when one fails, Slurm cancels these. throttle: how many of an array
    run at once (0: the profile's). folder: where scripts and logs go (else: of one task its run folder's slurm/, of
    several slurm/ in the folder that holds theirs). Each run folder gets slurm.json, which names the job and its log.

    Raises SlurmError when a run folder has a job already or cannot be written, the profile does not fit the cluster, or
    Slurm refuses; what was submitted before the refusal is named.
    """
    if not tasks:
        return []
    check(profile)
    check_cluster(profile)
    _check_folders(tasks)
    size = max_array_size() if len(tasks) > 1 else 1
    done: list[Submitted] = []
    for start in range(0, len(tasks), size):
        try:
            done += _submit_one(profile, tasks[start : start + size], after, throttle, folder)
        except SlurmError as error:
            if not done:
                raise
            ids = ", ".join(sorted({one.job.split("_")[0] for one in done}))
            raise SlurmError(
                f"{error}; {len(done)} of {len(tasks)} tasks were submitted before, as {ids}: the same command submits "
                "the rest"
            ) from None
    return done


def sbatch_script(
    profile: Profile, tasks: Sequence[Task], *, after: Sequence[str] = (), throttle: int = 0, folder: Path | None = None
) -> str:
    """The batch script of `submit` for these tasks, as one job or one array. Submits nothing, writes nothing."""
    check(profile)
    place = folder or _place(tasks)
    parameters = _parameters(profile, tasks, place / "SUBMISSION", after, throttle)
    if len(tasks) > 1:
        parameters["map_count"] = len(tasks)
    from submitit.slurm import slurm

    command = f"{_python(profile)} -u -m submitit.core._submit {shlex.quote(str(place / 'SUBMISSION'))}"
    return slurm._make_sbatch_string(command=command, folder=place / "SUBMISSION", **parameters)


def max_array_size() -> int:
    """How many tasks an array of this cluster may have."""
    for line in ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    return 1000


def _submit_one(
    profile: Profile, tasks: Sequence[Task], after: Sequence[str], throttle: int, folder: Path | None
) -> list[Submitted]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    # A folder of its own for every submission: job ids may start again from 1, and submitit's files go by them.
    place = (folder or _place(tasks)) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    try:
        place.mkdir(parents=True)
        (place / "runs").write_text("".join(f"{task.folder.absolute()}\n" for task in tasks))
    except OSError as error:
        raise SlurmError(f"{place}: cannot be written ({error.strerror}); set runs_dir= to a folder that can") from None
    with outside():
        executor = SlurmExecutor(place, python=_python(profile))
        executor.update_parameters(**_parameters(profile, tasks, place, after, throttle))
        try:
            # submitit repeats sbatch's complaint on stderr; ours is one line.
            with redirect_stderr(io.StringIO()):
                jobs = executor.submit_array([Run("jobs.cli:main", task.words) for task in tasks])
        except (FailedJobError, subprocess.SubprocessError, OSError) as error:
            raise SlurmError(explained("sbatch", str(error))) from None
    done = [Submitted(task, job.job_id, Path(str(job.paths.stdout))) for task, job in zip(tasks, jobs, strict=True)]
    for one in done:
        record = {"job": one.job, "name": tasks[0].name, "log": str(one.log), "submitted": time.time()}
        fresh = one.task.folder / f".{RECORD}.new"
        fresh.write_text(json.dumps(record, indent=1))
        fresh.replace(one.task.folder / RECORD)
    return done


def _check_folders(tasks: Sequence[Task]) -> None:
    """Raise SlurmError for a run folder that cannot be written or that a job in the queue will write to."""
    queued = queue()
    for task in tasks:
        try:
            task.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(task.folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise SlurmError(
                f"{task.folder}: cannot be written ({error.strerror}); set runs_dir= to a folder that can"
            ) from None
        job = live_job(task.folder, queued)
        if job is not None:
            raise SlurmError(
                f"{task.folder}: job {job.id} ({job.state}) writes there; wait for it, fgvc cancel {job.id}, or choose "
                "another name="
            )


def _place(tasks: Sequence[Task]) -> Path:
    folders = [task.folder.absolute() for task in tasks]
    return Path(os.path.commonpath(folders)) / "slurm"


def _commands(tasks: Sequence[Task]) -> list[str]:
    """What the job runs, as comments for who reads the script."""
    shown = [f"# fgvc {shlex.join(task.words)}" for task in tasks[:3]]
    return shown if len(tasks) <= 3 else [*shown, f"# and {len(tasks) - 3} more"]


def _python(profile: Profile) -> str:
    return profile.python or shlex.quote(sys.executable)


def _parameters(
    profile: Profile, tasks: Sequence[Task], place: Path, after: Sequence[str], throttle: int
) -> dict[str, Any]:
    """What submitit's executor takes."""
    limit = throttle or profile.throttle or len(tasks)
    gpus: Any = profile.gpus_per_node or None
    if gpus and profile.gpu_type:
        gpus = f"{profile.gpu_type}:{gpus}"
    environment = {"FGVC_TIMEOUT_MINUTES": f"{profile.timeout_minutes:g}", **profile.env}
    if not profile.gpus_per_node:
        environment = {"OMP_NUM_THREADS": str(profile.cpus_per_task)} | environment
    wanted = {
        "job_name": tasks[0].name, "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "nodes": profile.nodes, "ntasks_per_node": profile.ranks_per_node,
        "cpus_per_task": profile.cpus_per_task, "gpus_per_node": gpus, "mem": profile.memory, "time": profile.time,
        "dependency": f"afterok:{':'.join(after)}" if after else "",
    }  # fmt: skip
    more: dict[str, Any] = {"requeue": True, **profile.sbatch}
    if after:
        more["kill-on-invalid-dep"] = "yes"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    begin = shlex.join(["fgvc_begin", str(place), str(profile.max_restarts)])
    return {key: value for key, value in wanted.items() if value not in ("", None)} | {
        "additional_parameters": more,
        "array_parallelism": limit,
        "signal_delay_s": profile.signal_seconds,
        "setup": [*_commands(tasks), *profile.setup, *exports, f"source {shlex.quote(str(RESTART))}", begin],
        "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", f"--cpus-per-task={profile.cpus_per_task}"],
        "teardown": ["fgvc_end $?"],
        "stderr_to_stdout": True,
        "wckey": None,
    }
