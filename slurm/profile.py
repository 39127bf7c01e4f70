"""Cluster profiles: what a job requests from Slurm, checked for consistency and against the cluster."""

import re
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from annotated_types import Ge, Gt

from slurm.client import ask
from slurm.errors import SlurmError

# Slurm's time limits: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]], or none.
TIME = re.compile(r"\d+(:\d\d(:\d\d)?)?|\d+-\d+(:\d\d){0,2}|UNLIMITED|INFINITE", re.ASCII | re.IGNORECASE)
# sbatch options for which a profile has a setting of another name, and those that `fgvc` sets itself.
RENAMED = {"mem": "memory", "ntasks-per-node": "tasks_per_node", "signal": "signal_seconds"}
OURS = ("job-name", "output", "error", "open-mode", "array", "dependency", "wrap")


def _option(default: Any, help: str) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class Profile:
    """What a job requests. One task (rank) is started per GPU, or `tasks_per_node` on nodes without GPUs."""

    partition: str = _option("", "partition (empty: the cluster's default)")
    account: str = _option("", "account to charge (empty: yours by default)")
    qos: str = _option("", "quality of service (empty: the default)")
    constraint: str = _option("", "node features, as sbatch --constraint takes them")
    nodes: Annotated[int, Ge(1)] = _option(1, "nodes of a job")
    gpus_per_node: Annotated[int, Ge(0)] = _option(0, "GPUs of each node, one task for each; also TYPE:NUMBER")
    gpu_type: str = _option("", "GPU type where a partition has several, e.g. h100")
    tasks_per_node: Annotated[int, Ge(0)] = _option(0, "tasks of each node (0: one per GPU, or one without GPUs)")
    cpus_per_task: Annotated[int, Ge(1)] = _option(4, "CPU cores of each task: the rank and its loader workers")
    memory: str = _option("", "memory of each node, e.g. 200G (0: all of it; empty: the cluster's default)")
    time: str = _option(
        "1:00:00", "time limit, e.g. 8:00:00 or 2-00:00:00; a job that reaches it saves, is requeued and resumes"
    )
    signal_seconds: Annotated[int, Ge(1)] = _option(
        120, "warning before the time limit: long enough to save a checkpoint"
    )
    max_restarts: Annotated[int, Ge(0)] = _option(5, "restarts in a row without a new checkpoint before giving up")
    timeout_minutes: Annotated[float, Gt(0)] = _option(30.0, "ranks that wait this long for another one give up")
    throttle: Annotated[int, Ge(0)] = _option(0, "how many tasks of an array run at once (0: no limit)")
    scratch: str = _option("", "folder on a file system shared by all nodes; run folders go to <scratch>/runs")
    cache: str = _option("", "node-local folder to which shards are copied before reading, e.g. $TMPDIR")
    python: str = _option("", "command that starts Python, e.g. apptainer exec --nv fgvc.sif python (empty: this one)")
    setup: list[str] = _option([], "shell lines before the job, one per entry: module load, conda activate, ...")
    env: dict[str, str] = _option({}, "environment variables of the job, e.g. NCCL_SOCKET_IFNAME: ib0")
    sbatch: dict[str, str] = _option({}, "more sbatch options, e.g. reservation: course, exclusive: true")

    @property
    def ranks_per_node(self) -> int:
        """Tasks that srun starts on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Tasks of the whole job."""
        return self.nodes * self.ranks_per_node


KEYS = frozenset(Profile.__dataclass_fields__)


def check(profile: Profile) -> None:
    """Raise SlurmError for a setting that is invalid by itself or contradicts another one."""
    for entry in fields(profile):
        _check_setting(entry.name, getattr(profile, entry.name))
    if not TIME.fullmatch(profile.time):
        raise SlurmError(f"time={profile.time}: Slurm takes minutes, H:MM:SS or D-HH:MM:SS, such as 8:00:00")
    if 0 < _seconds(profile.time) <= profile.signal_seconds:
        raise SlurmError(
            f"time={profile.time} is no longer than signal_seconds={profile.signal_seconds}, the warning before it; "
            "raise time= (8:00 is 8 minutes, 8:00:00 is 8 hours)"
        )
    if profile.memory and not re.fullmatch(r"[0-9]+[KMGT]?B?", profile.memory, re.IGNORECASE):
        raise SlurmError(f"memory={profile.memory}: expected a number with K, M, G or T, such as 200G, or 0 for all")
    for name in profile.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SlurmError(f"env: '{name}' is not a valid name of an environment variable")
    for name in profile.sbatch:
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            raise SlurmError(f"sbatch: '{name}' is not an option of sbatch; write its long name, such as reservation")
        if (setting := RENAMED.get(name, name.replace("-", "_"))) in KEYS:
            raise SlurmError(f"sbatch.{name}={profile.sbatch[name]}: set {setting}= instead")
        if name in OURS:
            raise SlurmError(f"sbatch.{name}={profile.sbatch[name]}: fgvc sets this option itself; leave it out")


def check_tasks(profile: Profile) -> None:
    """Raise SlurmError for tasks that are not one per GPU; `fgvc crop` makes one task with several of what passes."""
    if profile.gpus_per_node and profile.ranks_per_node != profile.gpus_per_node:
        raise SlurmError(
            f"tasks_per_node={profile.tasks_per_node} with gpus_per_node={profile.gpus_per_node}: one task runs per "
            "GPU; leave out tasks_per_node"
        )


def check_text(what: str, text: str, allowed: str = "") -> None:
    """Raise SlurmError for a control character, which could start a line of its own in the batch script.

    These are Unicode's control characters, line and paragraph separators, and undecodable bytes; `allowed` exempts
    some. `what` names the text in the message, which is always one line.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") and character not in allowed:
            raise SlurmError(f"{what}: the text {text!a} contains {character!a}, a control character; remove it")


def _check_setting(name: str, value: Any) -> None:
    if isinstance(value, str):
        check_text(name, value)
    elif isinstance(value, list):
        for line in value:
            check_text(f"{name} (one shell line per entry)", line, allowed="\t")
    elif isinstance(value, dict):
        for key, text in value.items():
            check_text(name, key)
            check_text(f"{name}.{key}", text)


def check_cluster(profile: Profile) -> None:
    """Raise SlurmError when the cluster lacks the partition, or the partition lacks nodes of the requested size.

    Account, QOS and limits are left to sbatch, which refuses what they do not allow.
    """
    rows = [line.split("|") for line in ask("sinfo", "-h", "-o", "%P|%D|%c|%m|%G").splitlines()]
    names = sorted({row[0].rstrip("*") for row in rows})
    # sbatch takes several partitions too, of which the job uses the first one that is free.
    chosen = profile.partition.split(",") if profile.partition else []
    if unknown := [name for name in chosen if name not in names]:
        raise SlurmError(f"partition={unknown[0]}: this cluster has {', '.join(names)}; set partition=")
    chosen = chosen or [row[0][:-1] for row in rows if row[0].endswith("*")]
    here = [row for row in rows if row[0].rstrip("*") in chosen]
    if not here:
        return  # no default partition is listed: sbatch will report it
    where = f"partition {','.join(chosen)}"
    gpus = max(_gpus(row[4], profile.gpu_type) for row in here)
    if profile.gpus_per_node > gpus:
        kind = f" of type {profile.gpu_type}" if profile.gpu_type else ""
        raise SlurmError(
            f"gpus_per_node={profile.gpus_per_node}: a node of {where} has {gpus}{kind}; lower gpus_per_node="
        )
    cpus, needed = max(_number(row[2]) for row in here), profile.ranks_per_node * profile.cpus_per_task
    if needed > cpus:
        raise SlurmError(
            f"{profile.ranks_per_node} tasks x cpus_per_task={profile.cpus_per_task}: a node of {where} has "
            f"{cpus} CPUs; lower cpus_per_task="
        )
    fitting = [
        row for row in here if _gpus(row[4], profile.gpu_type) >= profile.gpus_per_node and _number(row[2]) >= needed
    ]
    count = sum(int(row[1]) for row in fitting)
    if profile.nodes > count:
        raise SlurmError(f"nodes={profile.nodes}: {where} has {count} such nodes; lower nodes=")


def _seconds(limit: str) -> int:
    """Seconds of a time limit in a format of TIME; 0 for no limit."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":") if part.isdigit()]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts, 0)[:3] if parts else (0, 0, 0)
    return (hours * 60 + minutes) * 60 + seconds


def _gpus(gres: str, kind: str) -> int:
    """Number of GPUs of a type (or of any) in a gres list such as gpu:h100:8(S:0-1),lic:2."""
    total = 0
    for name, count in re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", gres):
        if not kind or name == kind:
            total += int(count)
    return total


def _number(text: str) -> int:
    """A count as sinfo prints it: 64, or 64+ for at least 64."""
    return int(text.rstrip("+"))
