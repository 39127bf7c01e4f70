"""Tracking must not cost a run: W&B's service may end before the run does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_runs import small_run
from wandb_stub import serve_run

from fgvc.runtime import tracking
from fgvc.runtime.config import TrackConfig
from fgvc.runtime.lineage import used
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.runtime.tracking import Tracker
from jobs.cli import main
from shards.files import sha256_of
from shards.manifest import Manifest

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


def artifacts_of(run: Path) -> list[dict[str, Any]]:
    """The artifacts in an offline run's file, by W&B's own reader."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    words = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in said.splitlines()]
    return [record["artifact"] for record in records if record["type"] == "artifact"]


@pytest.mark.parametrize("artifacts", ["record", "model"])
def test_an_offline_runs_file_has_the_artifact(tmp_path: Path, artifacts: Literal["record", "model"]) -> None:
    folder = RunFolder(tmp_path, None)
    save_file({"a": np.zeros(3)}, folder.weights)
    inputs = {"shards": "0123456789abcdef", "weights": "hub"}
    tracker = Tracker(TrackConfig(wandb="offline", artifacts=artifacts), tmp_path, "classify", "wrens", {})
    tracker.log(1, {"loss": 2.0})
    finish(folder, {"steps": 1}, inputs, 1.0)
    tracker.lineage(folder, inputs)
    tracker.close()
    (artifact,) = artifacts_of(tmp_path)
    assert (artifact["name"], artifact["type"]) == (f"weights-{sha256_of(folder.weights)[:16]}", "model")
    assert json.loads(artifact["metadata"]) == {"run": "wrens", "inputs": inputs}
    files = {entry["path"]: int(entry["size"]) for entry in artifact["manifest"]["contents"]}
    held = ["model.safetensors", "result.json"] if artifacts == "model" else ["result.json"]
    assert files == {name: (tmp_path / name).stat().st_size for name in held}


def test_what_a_run_used_is_named_by_content() -> None:
    inputs = {"shards": "0123456789abcdef", "weights": "none", "teacher": "f" * 16, "exclude": "1" * 16}
    found = {artifact.name: (artifact.type, artifact.manifest.entries) for artifact in used(inputs)}
    assert {name: kind for name, (kind, _) in found.items()} == {
        "shards-0123456789abcdef": "dataset", "weights-ffffffffffffffff": "model", "exclude-1111111111111111": "input",
    }  # fmt: skip
    (entry,) = found["shards-0123456789abcdef"][1].values()
    for key in ("weights", "also.1", "start", "features", "backbone"):  # files that a run of ours may have made
        assert [artifact.name for artifact in used({key: "e" * 16})] == ["weights-eeeeeeeeeeeeeeee"]
    assert Path(entry.local_path).read_text() == "0123456789abcdef"


ONLINE = """
import sys
from pathlib import Path

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.run_folder import RunFolder, finish
from fgvc.runtime.tracking import Tracker

folder = RunFolder(Path(sys.argv[1]), None)
folder.weights.write_bytes(b"x")
tracker = Tracker(TrackConfig(), folder.path, "classify", "a", {})
finish(folder, {}, {"shards": "0123456789abcdef"}, 1.0)
tracker.lineage(folder, {"shards": "0123456789abcdef"})
tracker.close()
"""


@pytest.mark.slow
def test_an_online_run_tells_the_server_what_it_made_and_used(tmp_path: Path) -> None:
    """W&B's client to the end of what our server answers: it cannot read back the artifact that was used, which is a
    warning, and the run ends well."""
    with serve_run() as (environment, done):
        command = [sys.executable, "-c", ONLINE, str(tmp_path)]
        ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    weights = f"weights-{sha256_of(tmp_path / 'model.safetensors')[:16]}"
    assert sorted(done) == [
        ("CreateArtifact", "shards-0123456789abcdef"), ("CreateArtifact", weights),
        ("UseArtifact", "shards-0123456789abcdef"),
    ]  # fmt: skip


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LINEAGE_S", 0.2)
    monkeypatch.setattr(tracking.lineage, "declare", lambda *_: time.sleep(5))
    tracker = Tracker(TrackConfig(wandb="disabled"), tmp_path, "classify", "wrens", {})
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer in 0\.2 s"):
        tracker._declare({})
    assert time.monotonic() - began < 3
    tracker.close()


def test_a_server_that_fails_costs_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is used cannot be told offline: the client raises, as it does online when the server fails."""
    folder = RunFolder(tmp_path, None)
    tracker = Tracker(TrackConfig(wandb="offline"), tmp_path, "classify", "wrens", {})
    tracker.lineage(folder, {})  # without result.json nothing can be logged
    tracker.close()
    assert "W&B: no artifacts (" in caplog.text


def test_the_end_of_a_run_says_how_to_upload_it(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*small_run(guide, tmp_path, "wrens", "train.epochs=1"), "track.wandb=offline"]
    assert main(words) == 0
    line = f"to W&B: wandb sync {tmp_path}/classify/wrens/wandb/offline-run-*"
    assert capsys.readouterr().out.splitlines()[-1] == line
    (artifact,) = artifacts_of(tmp_path / "classify/wrens")
    assert json.loads(artifact["metadata"])["inputs"]["shards"] == guide.fingerprint
    assert main(words) == 0
    assert line not in capsys.readouterr().out  # once
