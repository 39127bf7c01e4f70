"""Tracking must not cost a run: W&B's service may end before the run does."""

import json
import os
import subprocess
import sys
from pathlib import Path

CODE = """
import signal
import sys
import time
from pathlib import Path

import psutil

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import Tracker

folder = Path(sys.argv[1])
tracker = Tracker(TrackConfig(wandb="offline"), folder, "classify", "a", {})
tracker.log(1, {"loss": 2.0})
deadline = time.monotonic() + 30  # the service is named so only once it has started
while not (services := [c for c in psutil.Process().children(recursive=True) if "wandb" in c.name()]):
    assert time.monotonic() < deadline
    time.sleep(0.1)
for service in services:
    service.send_signal(signal.SIGTERM)  # as scancel and Ctrl-C do, to every process
psutil.wait_procs(services)
for step in range(2, 12):
    tracker.log(step, {"loss": 1.0})
tracker.summary({"top1": 0.5})
tracker.close(3)
sys.exit(3)
"""


def test_a_run_outlives_wandbs_service(tmp_path: Path) -> None:
    own = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # of a run in this process
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("W&B stopped (") == 1
    assert "metrics.jsonl only" in ended.stderr
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 12))
