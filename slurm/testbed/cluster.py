"""A real Slurm on this machine, for tests and experiments: several nodes, fake GPUs, preemption, accounting.

    testbed = up(Path("/tmp/testbed"), nodes=2)
    subprocess.run(["sbatch", "job.sh"], env=os.environ | testbed.env)
    down(testbed.folder)

Each node is a slurmd daemon with its own host name. Jobs are ordinary processes that share the machine's files, CPUs
and network. Runs as root or as a normal user, alongside other clusters; needs the Debian packages in packages.txt.
"""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slurm.errors import SlurmError
from slurm.testbed import accounting as accounts
from slurm.testbed import config, daemons, layout
from slurm.testbed.daemons import missing_packages
from slurm.testbed.layout import Partition, Testbed, default_folder, load

__all__ = [
    "Partition",
    "Status",
    "Testbed",
    "client",
    "default_folder",
    "down",
    "kill_controller",
    "kill_node",
    "load",
    "missing_packages",
    "restore_node",
    "start_controller",
    "status",
    "up",
]

# As sinfo prints them. A suffix (`idle*`) means that the node does not respond.
READY = ("idle", "mixed", "allocated", "completing")


@dataclass(frozen=True)
class Status:
    """What runs of a cluster: `daemons` with their pids, `nodes` with Slurm's states, how many `jobs` are queued."""

    folder: Path
    daemons: Mapping[str, int]
    nodes: Mapping[str, str]
    jobs: int | None  # None: the controller does not respond

    @property
    def running(self) -> bool:
        """Whether anything of the cluster is alive."""
        return bool(self.daemons)


def up(
    folder: Path,
    nodes: int = 2,
    cpus_per_node: int = 4,
    gpus_per_node: int = 2,
    memory_mb_per_node: int = 8192,
    accounting: bool = False,
    partitions: Sequence[Partition] = (),
    settings: Mapping[str, str] | None = None,
) -> Testbed:
    """Start a cluster with all its state under `folder`; return once every node is ready.

    Nodes n1..nN form the partitions `normal` (the default; never preempted), `preemptible` and `high`. When `high`
    needs the nodes of a `preemptible` job, the job's steps get SIGTERM at once, and what still runs 10 s later is
    killed and requeued; a job whose script exits in the meantime has ended. `partitions` are added to these, on the
    same or on their own nodes; `settings` are extra lines of slurm.conf, such as `{"MaxArraySize": "100"}`.
    `accounting` adds sacct (about 5 s behind), sacctmgr, an account `research` and QOS. In a folder that held a
    cluster before, its jobs are gone but job ids and accounting history continue.

    Raises SlurmError when packages are missing, a cluster already runs in the folder, or the machine does not allow it.
    """
    if missing := missing_packages(accounting):
        raise SlurmError(f"a test cluster needs packages that are not installed: apt-get install {' '.join(missing)}")
    folder = folder.resolve()
    layout.check_folder(folder)
    daemons.unshare()
    with _locked(folder):
        if folder.stat().st_uid != os.getuid():  # its owner could read the key that authenticates every job
            raise SlurmError(f"{folder} belongs to another user; choose another --folder")
        if alive := _alive(folder):
            raise SlurmError(f"a cluster already runs in {folder} ({', '.join(alive)}); fgvc cluster down stops it")
        shared = (nodes, cpus_per_node, gpus_per_node, memory_mb_per_node)
        testbed = layout.plan(folder, shared, partitions, accounting, settings or {})
        config.write(testbed)
        layout.save(testbed)
        try:
            _start_all(testbed)
        except BaseException:
            _stop_all(testbed)
            raise
    return testbed


def down(folder: Path) -> None:
    """Stop everything of the cluster in `folder`: daemons, job steps and tasks. Logs and state are kept.

    Raises SlurmError when no cluster runs there.
    """
    testbed = _testbed(folder)
    with _locked(testbed.folder):
        if not _alive(testbed.folder):
            raise SlurmError(f"no cluster runs in {testbed.folder}")
        _stop_all(testbed)


def status(folder: Path) -> Status:
    """What runs of the cluster in `folder`; an empty Status where there is none."""
    testbed = layout.load(folder)
    if testbed is None:
        return Status(folder, {}, {}, None)
    alive = daemons.running(testbed.folder)
    if "slurmctld" not in alive:
        return Status(testbed.folder, alive, {}, None)
    try:
        nodes = _states(testbed)
        jobs = len(client(testbed, "squeue", "-h", "-r", "-o", "%i").splitlines())
    except SlurmError:
        return Status(testbed.folder, alive, {}, None)
    return Status(testbed.folder, alive, nodes, jobs)


def kill_node(folder: Path, node: str, notify: bool = True) -> None:
    """SIGKILL slurmd and every process of the node's jobs, like a power failure.

    With `notify` the controller learns of it at once, as from a site's health check; otherwise after SlurmdTimeout
    (10 s). Unlike in a real power failure, peers see their connections close.
    """
    testbed = _running_testbed(folder)
    testbed.node(node)
    daemons.end_hosts(testbed, [node], grace_s=0)
    if notify:
        client(testbed, "scontrol", "update", f"nodename={node}", "state=down", "reason=killed")


def restore_node(folder: Path, node: str) -> None:
    """Restart slurmd on a killed node; return once it is ready. Raises SlurmError when it still runs."""
    testbed = _running_testbed(folder)
    testbed.node(node)
    if node in daemons.running(testbed.folder):
        raise SlurmError(f"node {node!r} of the cluster in {testbed.folder} is running")
    started = int(time.time())
    _start_node(testbed, node)

    def registered() -> bool:
        # The state alone is not enough: it is stale when the controller never noticed that the node died.
        shown = client(testbed, "scontrol", "-o", "show", "node", node)
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        since = fields["SlurmdStartTime"]
        back = since not in ("None", "Unknown") and time.mktime(time.strptime(since, "%Y-%m-%dT%H:%M:%S")) >= started
        return back and fields["State"].lower().split("+")[0] in READY

    daemons.wait_until_up(testbed, node, registered)


def kill_controller(folder: Path) -> None:
    """SIGKILL slurmctld; the nodes and their jobs keep running."""
    testbed = _running_testbed(folder)
    daemons.stop(testbed.folder, ["slurmctld"], grace_s=0)


def start_controller(folder: Path) -> None:
    """Restart slurmctld from its last saved state; return once it knows its nodes (about 4 s).

    The last seconds before it was killed may be lost: a job that had just started is pending again. Raises SlurmError
    when slurmctld already runs.
    """
    testbed = _running_testbed(folder)
    if "slurmctld" in daemons.running(testbed.folder):
        raise SlurmError(f"slurmctld of the cluster in {testbed.folder} is running")
    _start_controller(testbed)
    _wait_for_nodes(testbed)


def client(testbed: Testbed, *command: str) -> str:
    """The output of a Slurm command such as `squeue` on this cluster. Raises SlurmError with its message."""
    # Inside a job of another cluster, its SLURM_* variables would redirect the command.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    result = subprocess.run(command, capture_output=True, text=True, env={**clean, **testbed.env})
    if result.returncode:
        raise SlurmError(f"{' '.join(command)} failed: {' | '.join(result.stderr.strip().splitlines())}")
    return result.stdout


def _start_all(testbed: Testbed) -> None:
    daemons.start_munge(testbed)
    if testbed.accounting:
        accounts.start(testbed)
    # -c: drop the jobs of an earlier cluster in this folder but continue its ids, so that files named by job id (as
    # submitit's are) stay unique.
    _start_controller(testbed, "-c")
    # After the controller: a slurmd that finds none retries only after a second.
    for node in testbed.nodes:
        _start_node(testbed, node.name)
    _wait_for_nodes(testbed)


def _start_node(testbed: Testbed, node: str) -> None:
    daemons.start(testbed, node, ["slurmd", "-D", "-N", node, "-f", testbed.conf], host=node)


def _start_controller(testbed: Testbed, *options: str) -> None:
    daemons.start(testbed, "slurmctld", ["slurmctld", "-D", "-f", testbed.conf, *options])

    def answers() -> bool:
        # Check the port first: a client that finds it closed retries for seconds.
        port_open = daemons.answers(("127.0.0.1", testbed.controller_port))
        return port_open and "UP" in client(testbed, "scontrol", "ping")

    daemons.wait_until_up(testbed, "slurmctld", answers)


def _wait_for_nodes(testbed: Testbed) -> None:
    """Return once the controller knows every node whose slurmd runs."""
    alive = daemons.running(testbed.folder)
    for node in testbed.nodes:
        if node.name in alive:
            daemons.wait_until_up(testbed, node.name, partial(_ready, testbed, node.name))


def _ready(testbed: Testbed, node: str) -> bool:
    return _states(testbed)[node] in READY


def _states(testbed: Testbed) -> dict[str, str]:
    """Each node's state as sinfo prints it; a node in several partitions has a line for each."""
    return dict(line.split() for line in client(testbed, "sinfo", "-h", "-N", "-o", "%N %T").splitlines())


def _alive(folder: Path) -> list[str]:
    """What still runs of the cluster in the folder: daemons by name, else `job steps` that outlived them."""
    testbed = layout.load(folder)
    if testbed is None:
        return []
    orphans = ["job steps"] if daemons.on_hosts(testbed, testbed.hosts) else []
    return list(daemons.running(folder)) or orphans


def _stop_all(testbed: Testbed) -> None:
    # The controller first, or it would requeue what ends next; each daemon before those it needs to save its state.
    daemons.stop(testbed.folder, ["slurmctld"])
    names = [node.name for node in testbed.nodes]
    daemons.end_hosts(testbed, names, grace_s=1.0)
    daemons.stop(testbed.folder, names)
    for name in (*accounts.DAEMONS, "munged"):
        daemons.stop(testbed.folder, [name])
    daemons.end_hosts(testbed, testbed.hosts, grace_s=0)


def _testbed(folder: Path) -> Testbed:
    testbed = layout.load(folder)
    if testbed is None:
        raise SlurmError(f"no cluster was ever started in {folder}")
    return testbed


def _running_testbed(folder: Path) -> Testbed:
    testbed = _testbed(folder)
    if not daemons.running(testbed.folder):
        raise SlurmError(f"no cluster runs in {testbed.folder}; start one there first")
    return testbed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only one process at a time start or stop the cluster of a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise SlurmError(f"cannot write to {folder}: {error.strerror}; choose another --folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
