"""Start, watch and stop the daemons of a test cluster by pid files, each under its own host name."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from slurm.errors import SlurmError
from slurm.testbed.layout import CONTROLLER, Testbed

PACKAGES = Path(__file__).parents[1] / "packages.txt"
# One program of each Debian package in packages.txt; if it exists, the package is installed.
PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "sbatch",
    "munge": "munged",
    "slurmdbd": "slurmdbd",
    "mariadb-server": "mariadbd",
}
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
# Debian keeps daemons out of the PATH of normal users.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
# $1: host name, $2: its hosts file, then the daemon. Everything is exec'ed, so the daemon keeps the pid.
ON_HOST = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def missing_packages(accounting: bool = True) -> list[str]:
    """The Debian packages that a test cluster needs and this machine lacks; with accounting=False fewer."""
    return [
        package
        for package, program in PROGRAMS.items()
        if (accounting or package not in ACCOUNTING_PACKAGES) and shutil.which(program, path=PATH) is None
    ]


@cache
def unshare() -> tuple[str, ...]:
    """The command prefix that gives a process its own host name and mounts: directly as root, else in a user namespace.

    Raises SlurmError where neither is allowed, as in some containers.
    """
    plain = ("unshare", "--mount", "--uts")
    for command in (plain, (*plain, "--user", "--map-current-user", "--keep-caps")):
        try:
            if subprocess.run([*command, "true"], capture_output=True, env={"PATH": PATH}).returncode == 0:
                return command
        except FileNotFoundError:
            break
    raise SlurmError(
        "this machine does not let a process have its own host name (`unshare --mount --uts` fails):"
        " run as root, allow user namespaces, or start the container with more privileges"
    )


def log_file(testbed: Testbed, name: str) -> Path:
    """The log file of a daemon."""
    return testbed.folder / "logs" / f"{name}.log"


def start(
    testbed: Testbed,
    name: str,
    command: Sequence[str | Path],
    host: str = CONTROLLER,
    env: Mapping[str, str] | None = None,
) -> None:
    """Start a daemon in the foreground of its own session on `host`, and record its pid."""
    argv = [*unshare(), "sh", "-c", ON_HOST, "sh", host, str(testbed.hosts_file(host)), *map(str, command)]
    out = str(log_file(testbed, name).with_suffix(".out"))
    # posix_spawn, not subprocess: the daemon outlives us and needs no object to wait on it. Not a shell's `&` either,
    # which would make every job of the cluster ignore SIGINT; signals that Python ignores (SIGPIPE) are reset likewise.
    pid = os.posix_spawn(
        str(shutil.which(argv[0], path=PATH)),
        argv,
        {"PATH": PATH, "LC_ALL": "C", **testbed.env, **(env or {})},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[s for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP) and s < 32],
    )
    # With the start time: the pid alone may belong to another process later.
    _pid_file(testbed.folder, name).write_text(f"{pid} {_start_time(pid)}")


def start_munge(testbed: Testbed) -> None:
    """Start munged, which authenticates every message between daemons and clients."""
    home = testbed.munge_socket.parent
    home.mkdir(exist_ok=True)
    home.chmod(0o711)  # others may use the socket but not read the key
    key = home / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    testbed.munge_socket.unlink(missing_ok=True)
    files = {
        "socket": testbed.munge_socket,
        "key-file": key,
        "seed-file": home / "seed",
        "pid-file": home / "pid",
        "log-file": log_file(testbed, "munged"),
    }
    # --force: munged refuses a folder with group-writable parents.
    command = ["munged", "--foreground", "--force", *(f"--{option}={file}" for option, file in files.items())]
    start(testbed, "munged", command)
    wait_until_up(testbed, "munged", lambda: answers(testbed.munge_socket))


def running(folder: Path) -> dict[str, int]:
    """Name and pid of each daemon of the cluster in `folder` that is alive."""
    pids = {file.stem: _pid(file) for file in sorted((folder / "run").glob("*.pid"))}
    return {name: pid for name, pid in pids.items() if pid is not None}


def stop(folder: Path, names: Iterable[str], grace_s: float = 5.0) -> None:
    """Stop the daemons with SIGTERM, after `grace_s` seconds with SIGKILL; return once all are gone."""
    names = set(names)

    def remaining() -> list[int]:
        return [pid for name, pid in running(folder).items() if name in names]

    _end(remaining, grace_s)
    for name in names:
        _pid_file(folder, name).unlink(missing_ok=True)


def end_hosts(testbed: Testbed, hosts: Sequence[str], grace_s: float) -> None:
    """Stop everything that runs on `hosts`: daemons, job steps, tasks and processes they left behind."""
    _end(lambda: on_hosts(testbed, hosts), grace_s)


def on_hosts(testbed: Testbed, hosts: Sequence[str]) -> list[int]:
    """The pids of the processes of `hosts`: those that see one of their hosts files as /etc/hosts.

    Parents and process groups do not work: slurmstepd leaves both, and its title does not name the node.
    """
    files = [testbed.hosts_file(host) for host in hosts]
    inodes = {(stat.st_dev, stat.st_ino) for stat in [file.stat() for file in files if file.exists()]}
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = os.stat(f"/proc/{entry.name}/root/etc/hosts")
        except OSError:  # gone, a zombie, or another user's
            continue
        if (stat.st_dev, stat.st_ino) in inodes:
            found.append(int(entry.name))
    return found


def answers(address: Path | tuple[str, int]) -> bool:
    """Whether something accepts connections at a Unix socket or at a host and port."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(address) if isinstance(address, Path) else address) == 0


def wait_for(done: Callable[[], object], seconds: float, what: str, pause_s: float = 0.02) -> None:
    """Return once `done()` is true. Raises SlurmError that names `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SlurmError(f"{what} did not finish within {seconds:g} s")
        time.sleep(pause_s)


def wait_until_up(testbed: Testbed, name: str, ready: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until the daemon is ready. Raises SlurmError with the end of its log when it dies or takes too long."""

    def settled() -> bool:
        return bool(ready()) or name not in running(testbed.folder)

    try:
        wait_for(settled, seconds, f"start of {name}")
        if name in running(testbed.folder):
            return
        problem = f"{name} exited while starting"
    except SlurmError as error:
        problem = str(error)
    log = log_file(testbed, name)
    text = "".join(file.read_text(errors="replace") for file in (log.with_suffix(".out"), log) if file.exists())
    raise SlurmError(f"{problem}; its log {log} ends: {' | '.join(text.splitlines()[-3:]) or '(empty)'}")


def _end(remaining: Callable[[], list[int]], grace_s: float) -> None:
    """Send SIGTERM to the processes that `remaining()` lists, SIGKILL after `grace_s`, until it lists none."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while pids := remaining():
        late = time.monotonic() >= deadline
        for pid in pids:
            if late or pid not in asked:
                asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)


def _pid_file(folder: Path, name: str) -> Path:
    return folder / "run" / f"{name}.pid"


def _pid(file: Path) -> int | None:
    """The pid in a pid file, if that same process is still alive."""
    try:
        pid, started = map(int, file.read_text().split())
    except (FileNotFoundError, ValueError):  # ValueError: the file is being written
        return None
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a dead child stays a zombie until it is waited for
    return pid if _start_time(pid) == started else None


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        # Field 2 is the program's name in parentheses and may contain spaces; field 3 is the state, 22 the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
