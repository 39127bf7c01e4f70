"""fgvc commands on the test cluster, and waiting for what they do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from slurm.testbed.cluster import Testbed


def command(testbed: Testbed, folder: Path, *words: str, code: int = 0) -> str:
    """The output of `fgvc WORDS` in that folder, on the test cluster."""
    result = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], cwd=folder, capture_output=True, text=True,
        env=os.environ | testbed.env | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == code, (result.stdout, result.stderr)
    return result.stdout


def rows(metrics: Path) -> list[dict]:
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def wait_until(ready: object, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
