"""Accounting for a test cluster: MariaDB and slurmdbd, so that sacct, sacctmgr, accounts and QOS work."""

import os
import shutil
import subprocess
from pathlib import Path

from slurm.errors import SlurmError
from slurm.testbed import daemons
from slurm.testbed.layout import CLUSTER, CONTROLLER, Testbed, me

ACCOUNT = "research"  # the only account, and the default of the user who starts the cluster
DAEMONS = ("slurmdbd", "mariadbd")  # in the order in which they are stopped


def start(testbed: Testbed) -> None:
    """Start the database and slurmdbd, and register the cluster, an account and its user.

    The history of an earlier cluster in the same folder is kept.
    """
    _start_database(testbed)
    _start_slurmdbd(testbed)
    for words in (
        ["cluster", CLUSTER],
        ["account", ACCOUNT, f"Cluster={CLUSTER}", "Description=test", "Organization=test"],
        ["user", me(), f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}", "AdminLevel=Administrator"],
    ):
        answer = _sacctmgr(testbed, "add", *words)
        if answer.returncode and not any(word in answer.stdout for word in ("already exist", "Nothing new added")):
            raise SlurmError(f"sacctmgr add {' '.join(words)} failed: {(answer.stdout + answer.stderr).strip()}")


def _start_database(testbed: Testbed) -> None:
    """MariaDB on a socket in a folder that only its owner can enter, so its root user needs no password."""
    home = testbed.folder / "mariadb"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "tmp").mkdir(exist_ok=True)
    options = [
        "--no-defaults",
        f"--tmpdir={home / 'tmp'}",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
        *(["--user=root"] if os.getuid() == 0 else []),  # without this it refuses to run as root
    ]
    data, fresh = home / "data", home / "data.new"
    if not data.exists():
        shutil.rmtree(fresh, ignore_errors=True)  # left by an interrupted start
        command = ["mariadb-install-db", *options, f"--datadir={fresh}"]
        command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        result = subprocess.run(command, capture_output=True, text=True, env={"PATH": daemons.PATH})
        if result.returncode:
            tail = (result.stdout + result.stderr).splitlines()[-3:]
            raise SlurmError(f"mariadb-install-db failed: {' | '.join(tail)}")
        fresh.rename(data)
    server = ["mariadbd", *options, f"--datadir={data}", "--skip-networking", f"--socket={_socket(testbed)}"]
    _socket(testbed).unlink(missing_ok=True)
    # slurmdbd warns at length when locks may time out before its own transactions do.
    daemons.start(testbed, "mariadbd", [*server, "--innodb-lock-wait-timeout=900"])
    daemons.wait_until_up(testbed, "mariadbd", lambda: daemons.answers(_socket(testbed)))


def _start_slurmdbd(testbed: Testbed) -> None:
    conf = testbed.conf.with_name("slurmdbd.conf")
    conf.touch(mode=0o600)  # required by slurmdbd
    values = {
        "DbdHost": CONTROLLER,
        "DbdAddr": "127.0.0.1",
        "DbdPort": testbed.database_port,
        "SlurmUser": me(),
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={testbed.munge_socket}",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",  # a socket: the one in MYSQL_UNIX_PORT
        "StorageUser": "root",
        "StorageLoc": "slurm",
        "LogFile": daemons.log_file(testbed, "slurmdbd"),
        "PidFile": testbed.folder / "state" / "slurmdbd.pid",
    }
    conf.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    daemons.start(testbed, "slurmdbd", ["slurmdbd", "-D"], env={"MYSQL_UNIX_PORT": str(_socket(testbed))})
    daemons.wait_until_up(testbed, "slurmdbd", lambda: daemons.answers(("127.0.0.1", testbed.database_port)))


def _sacctmgr(testbed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": daemons.PATH, **testbed.env}
    return subprocess.run(["sacctmgr", "--immediate", *words], capture_output=True, text=True, env=env)


def _socket(testbed: Testbed) -> Path:
    return testbed.folder / "mariadb" / "socket"
