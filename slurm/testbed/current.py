"""The test cluster that runs on this machine, found without an exported SLURM_CONF."""

import os
from contextlib import suppress
from pathlib import Path

from slurm.errors import SlurmError
from slurm.testbed import daemons, layout
from slurm.testbed.layout import Testbed, default_folder

RECORD = "last"  # in the default folder: the folder of the cluster started last


def remember(folder: Path) -> None:
    """Record where a cluster was started, for `current` in this and other processes."""
    with suppress(OSError):  # only a convenience: exporting SLURM_CONF works without it
        home = default_folder()
        home.mkdir(exist_ok=True)
        if _is_mine(home):
            (home / RECORD).write_text(f"{folder.resolve()}\n")


def current() -> Testbed | None:
    """This user's running test cluster: the one started last, else the one in the default folder; None without one."""
    home = default_folder()
    folders = [home]
    if _is_mine(home) and (home / RECORD).is_file():
        folders.insert(0, Path((home / RECORD).read_text().strip()))
    for folder in folders:
        if _is_mine(folder):
            with suppress(SlurmError):
                testbed = layout.load(folder)
                if testbed is not None and "slurmctld" in daemons.running(testbed.folder):
                    return testbed
    return None


def _is_mine(folder: Path) -> bool:
    """Whether the folder is this user's; a folder of somebody else could hand us their slurm.conf."""
    return folder.is_dir() and folder.stat().st_uid == os.getuid()
