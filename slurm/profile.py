"""Cluster profiles: what a job asks Slurm for, checked by itself and against the cluster."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from slurm.client import ask
from slurm.errors import SlurmError

# What Slurm takes as a time limit: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = re.compile(r"\d+(:\d\d(:\d\d)?)?|\d+-\d+(:\d\d){0,2}")


def _option(default: Any, help: str) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class Profile:
    """What a job on a cluster asks for. One task (rank) is started per GPU, or as `tasks_per_node` says."""

    partition: str = _option("", "partition (empty: the cluster's default)")
    account: str = _option("", "account to charge (empty: yours by default)")
    qos: str = _option("", "quality of service (empty: the default)")
    constraint: str = _option("", "node features, as sbatch --constraint takes them")
    nodes: Annotated[int, Ge(1)] = _option(1, "nodes of a job")
    gpus_per_node: Annotated[int, Ge(0)] = _option(0, "GPUs of each node, one task for each")
    gpu_type: str = _option("", "GPU type where a partition has several, e.g. h100")
    tasks_per_node: Annotated[int, Ge(0)] = _option(0, "tasks of each node (0: one per GPU; without GPUs one)")
    cpus_per_task: Annotated[int, Ge(1)] = _option(4, "CPU cores of each task: the rank and its loader workers")
    memory: str = _option("", "memory of each node, e.g. 200G (0: all of it; empty: the cluster's default)")
    time: str = _option("1:00:00", "time limit; a job that reaches it saves, is requeued and goes on")
    signal_seconds: Annotated[int, Ge(1)] = _option(120, "warning before the time limit: long enough to save in")
    max_restarts: Annotated[int, Ge(0)] = _option(5, "restarts in a row without a new checkpoint before giving up")
    timeout_minutes: Annotated[float, Gt(0)] = _option(30.0, "a rank that leaves the others waiting this long is lost")
    throttle: Annotated[int, Ge(0)] = _option(0, "tasks of an array that run at once (0: no limit)")
    scratch: str = _option("", "folder on a file system that all nodes share; run folders go to <scratch>/runs")
    cache: str = _option("", "node-local folder; shards are copied there before reading, e.g. $TMPDIR")
    python: str = _option("", "command that starts Python, e.g. apptainer exec --nv fgvc.sif python (empty: this one)")
    setup: list[str] = _option([], "shell lines before the job: module load, conda activate, ...")
    env: dict[str, str] = _option({}, "environment variables of the job, e.g. NCCL_SOCKET_IFNAME: ib0")
    sbatch: dict[str, str] = _option({}, "further sbatch options, e.g. reservation: course")

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
    """Raise SlurmError for what is wrong in the profile itself."""
    if not TIME.fullmatch(profile.time):
        raise SlurmError(f"time={profile.time}: Slurm takes minutes, H:MM:SS or D-HH:MM:SS, such as 8:00:00")
    if profile.memory and not re.fullmatch(r"\d+[KMGT]?B?", profile.memory, re.IGNORECASE):
        raise SlurmError(f"memory={profile.memory}: a number with K, M, G or T is wanted, such as 200G, or 0 for all")
    if profile.gpus_per_node and profile.ranks_per_node != profile.gpus_per_node:
        raise SlurmError(
            f"tasks_per_node={profile.tasks_per_node} with gpus_per_node={profile.gpus_per_node}: one task a GPU; "
            "leave tasks_per_node at 0"
        )
    for name in profile.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SlurmError(f"env: '{name}' cannot be the name of an environment variable")


def check_cluster(profile: Profile) -> None:
    """Raise SlurmError where the cluster has no such partition, or no nodes of that size in it.

    Account, QOS and limits are left to sbatch, which refuses what it does not allow.
    """
    rows = [line.split("|") for line in ask("sinfo", "-h", "-o", "%P|%D|%c|%m|%G").splitlines()]
    names = sorted({row[0].rstrip("*") for row in rows})
    if profile.partition and profile.partition not in names:
        raise SlurmError(f"partition={profile.partition}: this cluster has {', '.join(names)}; set partition=")
    wanted = [profile.partition] if profile.partition else [row[0][:-1] for row in rows if row[0].endswith("*")]
    here = [row for row in rows if row[0].rstrip("*") in wanted]
    if not here:
        return  # no default partition is shown: sbatch will say what is missing
    where = f"partition {wanted[0]}"
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


def _gpus(gres: str, kind: str) -> int:
    """GPUs in a gres list such as gpu:h100:8(S:0-1),lic:2, of one type or of any."""
    total = 0
    for name, count in re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", gres):
        if not kind or name == kind:
            total += int(count)
    return total


def _number(text: str) -> int:
    """A count as sinfo prints it: 64, or 64+ for at least that."""
    return int(text.rstrip("+"))
