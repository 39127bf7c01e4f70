"""Run Slurm's commands; their error messages become one line with advice."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from slurm.errors import SlurmError
from slurm.job import RANKS

PATIENCE_S = 60  # Slurm's own commands retry for minutes when the controller does not answer


def ask(*command: str) -> str:
    """The output of a Slurm command. Raises SlurmError, one line: not installed, no cluster, or Slurm's own message."""
    try:
        for _ in range(3):
            with outside():
                result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            # A busy controller occasionally drops connections. Everything run here is safe to repeat.
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
    """Slurm's own message in one line, followed by what to do about it where that is known."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in message.strip().splitlines()]
    lines = [line for line in lines if line]
    summary = "; ".join(dict.fromkeys(lines[-2:])) or "failed without a message"
    for pattern, advice in (
        ("configuration source", "no cluster is known here: log in to one, or fgvc cluster up and export SLURM_CONF"),
        ("Unable to contact", "slurmctld is down: try again later"),
        ("Invalid account", "set account= to one that may use this partition (sacctmgr show assoc user=$USER)"),
        ("Invalid qos", "set qos= to one of yours (sacctmgr show assoc user=$USER format=account,qos)"),
        ("time limit", "lower time="),
    ):
        if pattern.lower() in message.lower():
            return f"{command}: {summary}; {advice}"
    return f"{command}: {summary}"


@contextmanager
def outside() -> Iterator[None]:
    """Hide the variables of an enclosing job, which would leak into the new one; SLURM_CONF stays."""
    inherited = {
        key: os.environ.pop(key)
        for key in list(os.environ)
        if key in RANKS or (key.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and key != "SLURM_CONF")
    }
    try:
        yield
    finally:
        os.environ.update(inherited)
