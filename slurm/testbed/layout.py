"""The layout of a test cluster: its partitions, nodes, ports and folder."""

import json
import os
import pwd
import random
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slurm.errors import SlurmError

CONTROLLER = "ctl"  # the host name under which the controller and its helpers run


CLUSTER = "testbed"


# Below Linux's ephemeral ports (32768 and up), so that no outgoing connection takes one of ours.
PORTS = range(12000, 32000)


# Paths of Unix sockets have at most 107 characters, of which slurmstepd needs nodes/<node>/spool/<node>_<job>.<step>.
LONGEST_FOLDER = 60


OWN_FILES = ("lock", "last")  # of a folder in which no cluster was started yet


@dataclass(frozen=True)
class Partition:
    """A partition: on the shared nodes n1..nN with `nodes=0`, else on its own nodes <name>-1, <name>-2, ...

    Node sizes are only claimed: a partition of H100 nodes fits on a laptop, for `sbatch --test-only`.
    """

    name: str
    nodes: int = 0
    cpus: int = 64  # of each own node
    gpus: int = 8  # of each own node
    memory_mb: int = 512_000  # of each own node
    priority: int = 1  # PriorityTier: a higher tier preempts preemptible jobs of a lower one
    preemptible: bool = False  # jobs are requeued when a higher tier needs the nodes
    grace_s: int = 10  # seconds from SIGTERM to SIGKILL on preemption; 0: no warning
    max_time: str = "UNLIMITED"  # in Slurm's format


# On the shared nodes of every cluster. Jobs in `normal` are never preempted; `high` preempts `preemptible`.
STANDARD = (
    Partition("normal"),
    Partition("preemptible", preemptible=True),
    Partition("high", priority=10),
)


SHARED = STANDARD[0].name  # shared nodes are identified by their first partition


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, i.e. one slurmd: its name, its port on 127.0.0.1 and the size it claims."""

    name: str
    port: int
    cpus: int
    gpus: int
    memory_mb: int
    feature: str  # the partition it belongs to, usable as `--constraint`


@dataclass(frozen=True)
class Testbed:
    """A test cluster as it was started; `folder` holds all its state."""

    __test__ = False  # keeps pytest from collecting it as a test class

    folder: Path
    nodes: tuple[Node, ...]
    partitions: tuple[Partition, ...]
    accounting: bool
    controller_port: int
    database_port: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """The munge socket from which clients and daemons get credentials."""
        return self.folder / "munge" / "socket"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which clients (sbatch, srun, squeue, submitit) reach this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of all hosts: the controller's and the nodes'."""
        return (CONTROLLER, *(node.name for node in self.nodes))

    def hosts_file(self, host: str) -> Path:
        """The file that processes on `host` see as /etc/hosts. One per host, because it also identifies the host."""
        return self.folder / "nodes" / host / "hosts"

    def node(self, name: str) -> Node:
        """The node with that name. Raises SlurmError when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise SlurmError(f"no node {name!r} in the cluster in {self.folder}; its nodes are {', '.join(self.hosts[1:])}")


def check_folder(folder: Path) -> None:
    """Raise SlurmError for a folder in which a cluster cannot live, or that holds something else."""
    if len(str(folder)) > LONGEST_FOLDER:
        raise SlurmError(
            f"{folder} is too long a path for Slurm's sockets (at most {LONGEST_FOLDER} characters); "
            "choose another --folder"
        )
    if wrong := re.search(r"[^\w/.@:~+-]", str(folder)):
        raise SlurmError(f"{str(folder)!a}: slurm.conf cannot hold a path with {wrong[0]!a}; choose another --folder")
    if folder.is_dir() and not (folder / "testbed.json").is_file():
        others = sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES)
        if others:
            raise SlurmError(f"{folder} holds no cluster but other files ({others[0]}); choose an empty --folder")


def plan(
    folder: Path,
    shared: tuple[int, int, int, int],
    partitions: Sequence[Partition],
    accounting: bool,
    settings: Mapping[str, str],
) -> Testbed:
    """Lay out a cluster on free ports. `shared`: how many shared nodes, then CPUs, GPUs and MB of memory of each."""
    for text in (*settings, *settings.values(), *(partition.max_time for partition in partitions)):
        if not text.isprintable():
            raise SlurmError(f"{text!a} cannot be a setting: it contains a control character")
    everything = (*STANDARD, *partitions)
    names = [partition.name for partition in everything]
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise SlurmError(f"{name!r} cannot be a partition's name: a letter, then letters, digits, '_' and '-'")
        if name.upper() == "DEFAULT":  # Slurm reads it as defaults for later partitions
            raise SlurmError(f"{name!r} cannot be a partition's name: Slurm reserves it")
        if names.count(name) > 1:
            raise SlurmError(
                f"partition {name!r} is given twice; every cluster has {', '.join(names[: len(STANDARD)])}"
            )
    count, cpus, gpus, memory_mb = shared
    sizes = [(f"n{i + 1}", cpus, gpus, memory_mb, SHARED) for i in range(count)]
    for p in partitions:
        sizes += [(f"{p.name}-{i + 1}", p.cpus, p.gpus, p.memory_mb, p.name) for i in range(p.nodes)]
    for name, cpus, gpus, memory_mb, _ in sizes:
        if cpus < 1 or gpus < 0 or memory_mb < 1:
            size = f"{cpus} CPUs, {gpus} GPUs and {memory_mb} MB"
            raise SlurmError(f"node {name!r} cannot have {size}: at least 1 CPU, 0 GPUs and 1 MB")
    if count < 1:
        raise SlurmError(f"a cluster needs at least 1 shared node, not {count}")
    ports = free_ports(len(sizes) + 2)
    nodes = tuple(
        Node(name, port, cpus, gpus, memory_mb, feature)
        for (name, cpus, gpus, memory_mb, feature), port in zip(sizes, ports[2:], strict=True)
    )
    return Testbed(folder, nodes, everything, accounting, ports[0], ports[1], dict(settings))


def free_ports(count: int) -> list[int]:
    """`count` distinct free TCP ports, chosen at random so that clusters started together rarely collide."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise SlurmError(
        f"fewer than {count} free TCP ports between {PORTS.start} and {PORTS.stop}; stop the programs that use them"
    )


def save(testbed: Testbed) -> None:
    """Record the cluster in its folder, for later calls and other processes."""
    record = asdict(testbed) | {"folder": str(testbed.folder), "settings": dict(testbed.settings)}
    # Atomic: without this record nobody could stop the cluster.
    fresh = testbed.folder / "testbed.json.new"
    fresh.write_text(json.dumps(record, indent=1))
    fresh.replace(testbed.folder / "testbed.json")


def load(folder: Path) -> Testbed | None:
    """The cluster last started in `folder`; None when there never was one."""
    folder = folder.resolve()
    try:
        record = json.loads((folder / "testbed.json").read_text())
        record["folder"] = folder
        record["nodes"] = tuple(Node(**node) for node in record["nodes"])
        record["partitions"] = tuple(Partition(**partition) for partition in record["partitions"])
        return Testbed(**record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise SlurmError(
            f"{folder}/testbed.json: not readable as the record of a cluster; choose another --folder"
        ) from None


def default_folder() -> Path:
    """The default folder of a cluster: local, with a short path, one per user."""
    return Path(tempfile.gettempdir()) / f"fgvc-testbed-{me()}"


def me() -> str:
    """The user that daemons run as: the name, which Slurm prints, or the number of a user without one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
