"""Run Slurm's commands; their error messages become one line with advice."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm.errors import SlurmError
from slurm.job import RANKS
from slurm.testbed.current import current

NO_CLUSTER = "configuration source"  # in Slurm's message where no configuration is found
PATIENCE_S = 60  # Slurm's own commands retry for minutes when the controller does not answer


def ask(*command: str) -> str:
    """The output of a Slurm command. Raises SlurmError, one line: not installed, no cluster, or Slurm's own message."""
    conf = os.environ.get("SLURM_CONF")
    if conf and not Path(conf).is_file():  # Slurm would look for it for a minute
        raise SlurmError(f"SLURM_CONF={conf}: no such file; unset SLURM_CONF, or export that of a cluster that runs")
    try:
        for _ in range(3):
            with outside():
                result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
            # A busy controller occasionally drops connections. Everything run here is safe to repeat.
            if result.returncode and "socket" in result.stderr.lower():
                time.sleep(1)
            elif not (result.returncode and NO_CLUSTER in result.stderr.lower() and not conf and use_testbed()):
                break
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


def _chosen_conf() -> str:
    """A hint at SLURM_CONF, which may still name a cluster that is gone."""
    conf = os.environ.get("SLURM_CONF")
    if not conf:
        return ""
    if (Path(conf).parent.parent / "testbed.json").is_file():
        return f", or SLURM_CONF={conf} names a test cluster that is down: fgvc cluster up, or unset it"
    return f", or unset SLURM_CONF ({conf}) if that cluster is gone"


def use_testbed() -> bool:
    """Direct Slurm's commands to the test cluster that runs here, unless SLURM_CONF is set; False if neither exists."""
    if not os.environ.get("SLURM_CONF"):
        testbed = current()
        if testbed is None:
            return False
        os.environ.update(testbed.env)
    return True


def explained(command: str, message: str) -> str:
    """Slurm's own message in one line, followed by what to do about it where that is known."""
    lines = [
        re.sub(rf"^(\w+: (error|fatal): |{re.escape(command)}: )", "", line).strip()
        for line in message.strip().splitlines()
    ]
    lines = [line for line in lines if line]
    summary = "; ".join(dict.fromkeys(lines[-2:])) or "failed without a message"
    if NO_CLUSTER in message.lower():  # Slurm takes four lines to say so
        return f"{command}: no cluster is known here: log in to one, or start a small one: fgvc cluster up"
    for pattern, advice in (
        ("Unable to contact", f"the controller is down: try again later{_chosen_conf()}"),
        ("Invalid account", "set account= to one that may use this partition (sacctmgr show assoc user=$USER)"),
        ("Invalid qos", "set qos= to one of yours (sacctmgr show assoc user=$USER format=account,qos)"),
        ("time limit", "lower time="),
        ("Memory specification", "lower memory="),
        ("Invalid feature", "set constraint= to features that the nodes have (sinfo -o '%P %f')"),
        ("unrecognized option", "correct it in sbatch="),
        ("reservation", "correct sbatch.reservation= (scontrol show reservation)"),
        ("munge", "the authentication service is down here: submit from a login node, or try again later"),
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
