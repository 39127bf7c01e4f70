"""Asking Slurm's commands, with their answers and complaints in one line."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from slurm.errors import SlurmError
from slurm.job import RANKS

PATIENCE_S = 60  # for an answer of Slurm's commands, which by themselves retry for long


def ask(*command: str) -> str:
    """What a Slurm command prints. Raises SlurmError in one line: not installed, no cluster, or its own message."""
    try:
        for _ in range(3):
            with outside():
                result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            # A busy controller drops connections now and then; what is asked here may be asked twice.
            if not (result.returncode and "socket" in result.stderr.lower()):
                break
            time.sleep(1)
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not installed here: submit from a login node of the cluster; to try it on this machine: "
            "fgvc cluster up"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"Slurm did not answer {command[0]} within {PATIENCE_S} s; try again later") from None
    if result.returncode:
        raise SlurmError(explained(command[0], result.stderr))
    return result.stdout


def explained(command: str, message: str) -> str:
    """Slurm's own message in one line, and what to do where that is known."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in message.strip().splitlines()]
    lines = [line for line in lines if line]
    said = "; ".join(dict.fromkeys(lines[-2:])) or "it failed without a message"
    for sign, advice in (
        ("configuration source", "no cluster is known here: log in to one, or fgvc cluster up and export SLURM_CONF"),
        ("Unable to contact", "slurmctld is down: try again later"),
        ("Invalid account", "set account= to one that may use this partition (sacctmgr show assoc user=$USER)"),
        ("Invalid qos", "set qos= to one of yours (sacctmgr show assoc user=$USER format=account,qos)"),
        ("time limit", "lower time="),
    ):
        if sign.lower() in message.lower():
            return f"{command}: {said}; {advice}"
    return f"{command}: {said}"


@contextmanager
def outside() -> Iterator[None]:
    """The environment without what the job around us, if any, set: it would steer the new one. SLURM_CONF stays."""
    inherited = {
        key: os.environ.pop(key)
        for key in list(os.environ)
        if key in RANKS or (key.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and key != "SLURM_CONF")
    }
    try:
        yield
    finally:
        os.environ.update(inherited)
