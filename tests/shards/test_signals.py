"""A child ends with its parent, whichever is first: the parent's death or the child's asking to be told of it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from slurm_helpers import eventually

CHILD = """
import os, signal, sys, time
from pathlib import Path
from shards.signals import end_with_parent

folder, late = Path(sys.argv[1]), sys.argv[2] == "late"
parent = os.getpid()
if os.fork() == 0:
    while late and os.getppid() == parent:
        time.sleep(0.01)
    (folder / "pid").write_text(str(os.getpid()))
    end_with_parent(parent, signal.SIGKILL)
    (folder / "told").touch()
    time.sleep(600)
if not late:
    while not (folder / "told").exists():
        time.sleep(0.01)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")
@pytest.mark.parametrize("when", ["early", "late"])
def test_nobody_is_orphaned(tmp_path: Path, when: str) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), when], check=True, timeout=60)
    pid = tmp_path / "pid"
    assert eventually(lambda: pid.exists() and pid.read_text() != "", 20)
    child = int(pid.read_text())
    assert eventually(lambda: not psutil.pid_exists(child), 20)
    assert (tmp_path / "told").exists() == (when == "early")
