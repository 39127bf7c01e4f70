"""Submit fgvc commands to Slurm, as single jobs or arrays, optionally after other jobs. Built on submitit."""

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
from slurm.job import RankCommand
from slurm.profile import Profile, check, check_cluster, check_text
from slurm.queue import RECORD, live_job, queue

RESTART = Path(__file__).with_name("restart.sh")


@dataclass(frozen=True)
class Launch:
    """An fgvc command to run as a job: `words` follow `fgvc`, `folder` is its run folder, `name` is shown by squeue."""

    name: str
    words: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Submitted:
    """A submitted launch: its job id (`123`, or `123_4` in an array) and the log of rank 0 and of Slurm."""

    launch: Launch
    job: str
    log: Path


def submit(
    profile: Profile,
    launches: Sequence[Launch],
    *,
    after: Sequence[str] = (),
    throttle: int = 0,
    folder: Path | None = None,
) -> list[Submitted]:
    """Submit launches in order: one as a job, several as arrays of at most the cluster's MaxArraySize.

    after: ids of jobs that must succeed first; when one fails, Slurm cancels these launches. throttle: how many tasks
    of an array run at once (0: the profile's limit). folder: where scripts and logs go (default: slurm/ in the run
    folder, or in the common parent of several). Each run folder gets a slurm.json that names its job and log.

    Raises SlurmError when a run folder already has a job or is not writable, the profile does not fit the cluster, or
    Slurm refuses; the message names what was submitted before.
    """
    if not launches:
        return []
    check(profile)
    _check_launches(launches)
    check_cluster(profile)
    _check_folders(launches)
    size = max_array_size() if len(launches) > 1 else 1
    done: list[Submitted] = []
    for start in range(0, len(launches), size):
        try:
            done += _submit_one(profile, launches[start : start + size], after, throttle, folder)
        except SlurmError as error:
            if not done:
                raise
            ids = ", ".join(sorted({entry.job.split("_")[0] for entry in done}))
            raise SlurmError(
                f"{error}; {len(done)} of {len(launches)} were submitted before, as {ids}: the same command submits "
                "the rest"
            ) from None
    return done


def sbatch_script(
    profile: Profile,
    launches: Sequence[Launch],
    *,
    after: Sequence[str] = (),
    throttle: int = 0,
    folder: Path | None = None,
) -> str:
    """The batch script that `submit` would use for these launches, as one job or one array. Has no side effects."""
    check(profile)
    _check_launches(launches)
    place = folder or _place(launches)
    parameters = _parameters(profile, launches, place / "SUBMISSION", after, throttle)
    if len(launches) > 1:
        parameters["map_count"] = len(launches)
    from submitit.slurm import slurm

    command = f"{_python(profile)} -u -m submitit.core._submit {shlex.quote(str(place / 'SUBMISSION'))}"
    return slurm._make_sbatch_string(command=command, folder=place / "SUBMISSION", **parameters)


def max_array_size() -> int:
    """The largest number of tasks in an array on this cluster."""
    for line in ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))
    return 1000


def _submit_one(
    profile: Profile, launches: Sequence[Launch], after: Sequence[str], throttle: int, folder: Path | None
) -> list[Submitted]:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    # A new folder for each submission: submitit names its files by job id, and ids may start from 1 again.
    place = (folder or _place(launches)) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    try:
        place.mkdir(parents=True)
        (place / "runs").write_text("".join(f"{launch.folder.absolute()}\n" for launch in launches))
    except OSError as error:
        raise SlurmError(f"{place}: not writable ({error.strerror}); set runs_dir= to a folder that is") from None
    with outside():
        executor = SlurmExecutor(place, python=_python(profile))
        executor.update_parameters(**_parameters(profile, launches, place, after, throttle))
        try:
            # submitit repeats sbatch's message on stderr; ours is one line.
            with redirect_stderr(io.StringIO()):
                jobs = executor.submit_array([RankCommand("jobs.cli:main", launch.words) for launch in launches])
        except (FailedJobError, subprocess.SubprocessError, OSError) as error:
            raise SlurmError(explained("sbatch", str(error))) from None
    done = [
        Submitted(launch, job.job_id, Path(str(job.paths.stdout))) for launch, job in zip(launches, jobs, strict=True)
    ]
    for entry in done:
        record = {"job": entry.job, "name": launches[0].name, "log": str(entry.log), "submitted": time.time()}
        fresh = entry.launch.folder / f".{RECORD}.new"
        fresh.write_text(json.dumps(record, indent=1))
        fresh.replace(entry.launch.folder / RECORD)
    return done


def _check_launches(launches: Sequence[Launch]) -> None:
    """Raise SlurmError for text that must not reach the batch script, or that Slurm would rewrite."""
    for launch in launches:
        for word in launch.words:
            check_text("setting", word)
        check_text("name", launch.name)
        check_text("run folder", str(launch.folder))
        for character in "%\\":
            if character in str(launch.folder.absolute()):
                raise SlurmError(
                    f"{launch.folder}: Slurm gives '{character}' in a path a meaning of its own (as in %j); choose a "
                    "name= and runs_dir= without it"
                )


def _check_folders(launches: Sequence[Launch]) -> None:
    """Raise SlurmError for a run folder that is not writable or that a job in the queue uses."""
    queued = queue()
    for launch in launches:
        try:
            launch.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(launch.folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise SlurmError(
                f"{launch.folder}: not writable ({error.strerror}); set runs_dir= to a folder that is"
            ) from None
        job = live_job(launch.folder, queued)
        if job is not None:
            raise SlurmError(
                f"{launch.folder}: job {job.id} ({job.state}) uses this folder; wait for it, run fgvc cancel "
                f"{job.id}, or set another name="
            )


def _place(launches: Sequence[Launch]) -> Path:
    folders = [launch.folder.absolute() for launch in launches]
    return Path(os.path.commonpath(folders)) / "slurm"


def _commands(launches: Sequence[Launch]) -> list[str]:
    """What the job runs, as comments for readers of the script."""
    shown = [f"# fgvc {shlex.join(launch.words)}" for launch in launches[:3]]
    return shown if len(launches) <= 3 else [*shown, f"# and {len(launches) - 3} more"]


def _python(profile: Profile) -> str:
    return profile.python or shlex.quote(sys.executable)


def _flag(option: str, text: str) -> bool | str:
    """The value of an sbatch option: True or False for one without a value, such as `exclusive: true`."""
    if option == "kill-on-invalid-dep":  # the one option whose values are yes and no
        return text
    return {"": True, "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
        text.lower(), text
    )


def _parameters(
    profile: Profile, launches: Sequence[Launch], place: Path, after: Sequence[str], throttle: int
) -> dict[str, Any]:
    """The parameters of submitit's executor."""
    limit = throttle or profile.throttle or len(launches)
    gpus: Any = profile.gpus_per_node or None
    if gpus and profile.gpu_type:
        gpus = f"{profile.gpu_type}:{gpus}"
    environment = {"FGVC_TIMEOUT_MINUTES": f"{profile.timeout_minutes:g}", **profile.env}
    if not profile.gpus_per_node:
        environment = {"OMP_NUM_THREADS": str(profile.cpus_per_task)} | environment
    requested = {
        "job_name": launches[0].name, "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "nodes": profile.nodes, "ntasks_per_node": profile.ranks_per_node,
        "cpus_per_task": profile.cpus_per_task, "gpus_per_node": gpus, "mem": profile.memory, "time": profile.time,
        "dependency": f"afterok:{':'.join(after)}" if after else "",
    }  # fmt: skip
    extra = {"requeue": True} | {key: _flag(key, text) for key, text in profile.sbatch.items()}
    extra = {key: value for key, value in extra.items() if value is not False}
    if after:
        extra["kill-on-invalid-dep"] = "yes"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    begin = shlex.join(["fgvc_begin", str(place), str(profile.max_restarts)])
    return {key: value for key, value in requested.items() if value not in ("", None)} | {
        "additional_parameters": extra,
        "array_parallelism": limit,
        "signal_delay_s": profile.signal_seconds,
        "setup": [*_commands(launches), *profile.setup, *exports, f"source {shlex.quote(str(RESTART))}", begin],
        "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", f"--cpus-per-task={profile.cpus_per_task}"],
        "teardown": ["fgvc_end $?"],
        "stderr_to_stdout": True,
        "wckey": None,
    }
