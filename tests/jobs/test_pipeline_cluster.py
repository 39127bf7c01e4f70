"""`fgvc pipeline` on a real Slurm."""

import json
from pathlib import Path

import psutil
import pytest
from cluster_commands import command, wait_until
from slurm_helpers import skip_without_cluster
from small_pipeline import begin, weights

from jobs.cli import main
from slurm.testbed.cluster import client, down, kill_node, up


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begin(tmp_path, monkeypatch)


@pytest.mark.slow
def test_cluster(birds: Path, tmp_path: Path) -> None:
    """No driver stays alive; a rank and a node are killed: the end is that of an undisturbed run here."""
    skip_without_cluster()
    assert main(["pipeline", "birds.yaml", "name=calm", "data.shards=data/calm"]) == 0
    testbed = up(tmp_path / "s")  # a short path: sockets lie in it
    words = ("pipeline", "birds.yaml", "--on", "testbed")
    try:
        assert "4 of 4 stages submitted" in command(testbed, tmp_path, *words)
        assert "0 of 4 stages submitted" in command(testbed, tmp_path, *words)  # all are in the queue
        wait_until(lambda: len(list((birds / "classify/classifier/checkpoints").glob("step-*"))) >= 2, 60)
        for process in psutil.process_iter(["cmdline"]):
            words_of = process.info["cmdline"] or [""]
            if "python" in words_of[0] and any("classify/classifier/slurm" in word for word in words_of):
                process.kill()
        wait_until((birds / "classify/classifier/result.json").is_file, 120)
        wait_until(lambda: len(list((birds / "classify/other/checkpoints").glob("step-*"))) >= 2, 60)
        job = _job(testbed, "other")
        node = client(testbed, "squeue", "-h", "-j", job, "-o", "%N").strip()
        kill_node(testbed.folder, node)
        wait_until((birds / "attack/attack/result.json").is_file, 120)
        assert "0 of 4 stages submitted" in command(testbed, tmp_path, *words, "--follow")
    finally:
        down(testbed.folder)
    calm = birds.parent / "calm"
    assert weights(birds) == weights(calm)
    ours, theirs = (json.loads((home / "attack/attack/result.json").read_text()) for home in (birds, calm))
    assert ours["test"] == theirs["test"]
    assert json.loads((birds / "result.json").read_text())["stages"].keys() >= {"shards", "attack"}


def _job(testbed: object, stage: str) -> str:
    found: list[str] = []

    def named() -> bool:
        found[:] = client(testbed, "squeue", "--me", "-h", "-n", f"pipeline/birds/{stage}", "-o", "%i").split()  # type: ignore[arg-type]
        return bool(found)

    wait_until(named, 60)
    return found[0]
