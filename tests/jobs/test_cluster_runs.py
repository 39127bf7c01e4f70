"""Training on the test cluster: the samples of one process, one history, and the same bits after interruptions."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chaos_kinds
import pytest
from chaos import interrupt, open_bench
from chaos_kinds import Bench
from cluster_commands import command, rows, wait_until
from places import ROOT
from same_run import same_end
from slurm_helpers import skip_without_cluster
from small_runs import small_run

from shards.manifest import Manifest
from slurm.testbed.cluster import client, down, up


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    skip_without_cluster()


@pytest.mark.slow
def test_two_nodes_with_two_ranks_learn_what_one_process_learns(
    guide: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Stopped by a signal half-way: one history, one W&B run id, and the samples of one process."""
    folder = tmp_path_factory.mktemp("two")
    testbed = up(folder / "slurm")
    # BatchNorm sees only its rank's samples; frozen, the figures of a step depend on the global batch alone.
    more = ["train.freeze_bn=statistics", "track.wandb=offline", "evaluate_test=false", "train.max_steps=16"]
    try:
        command(testbed, folder, *small_run(guide, folder / "runs", "one", *more))
        words = [*small_run(guide, folder / "runs", "four", *more), "--on", "testbed"]
        shown = command(testbed, folder, *words, "nodes=2", "tasks_per_node=2")
        job, run = shown.split(":")[0].removeprefix("job "), folder / "runs/classify/four"
        metrics = run / "metrics.jsonl"
        wait_until(lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= 5)
        assert "RUNNING" in command(testbed, folder, "status", str(run))
        client(testbed, "scancel", "--signal=USR2", job)
        wait_until((run / "result.json").is_file)
        shown = command(testbed, folder, "status", str(run))
        assert " done " in shown
        assert "100% step 16" in shown
        assert "nothing was submitted" in command(testbed, folder, *words)
    finally:
        down(testbed.folder)
    one, four = (rows(folder / "runs/classify" / name / "metrics.jsonl") for name in ("one", "four"))
    assert [row["step"] for row in four] == list(range(1, 17))
    for left, right in zip(one, four, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=2e-4)
        assert left["top1"] == right["top1"]
    assert json.loads((run / "result.json").read_text())["steps"] == 16
    # W&B makes a new folder per restart; `wandb sync` joins them by their common id.
    offline = [path.name.rsplit("-", 1)[1] for path in (run / "wandb").glob("offline-run-*")]
    assert len(offline) == 2, "one start and one restart, on rank 0 only"
    assert set(offline) == {(run / "wandb_id").read_text()}
    assert len(list(run.rglob("metrics.jsonl"))) == 1


@pytest.fixture(scope="module")
def bench(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = open_bench(tmp_path_factory.mktemp("chaos"), guide, ranks_per_node=1)
    yield made
    down(made.testbed.folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["rank_killed", "node_fails", "preemption_at_once"])
def test_an_interrupted_run_ends_in_the_same_bits(bench: Bench, kind: str) -> None:
    """Three of the twelve kinds, a rank on each node; `make chaos` runs all, with two."""
    outcome = interrupt(bench, kind)
    assert outcome.hit >= chaos_kinds.HIT
    assert outcome.restarts >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hand_written_batch_script_does_the_same(guide: Manifest, bench: Bench, tmp_path: Path) -> None:
    more = ["train.deterministic=true", "train.freeze_bn=statistics", "train.epochs=4"]
    words = small_run(guide, tmp_path / "runs", "own", *more)[1:]
    size = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", f"--output={tmp_path}/log"]
    environment = os.environ | bench.testbed.env | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}

    def sbatch(*words: str) -> str:
        batch = ["sbatch", "--parsable", *size, str(ROOT / "slurm/job.sbatch"), "classify", *words]
        return subprocess.run(
            batch, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    job = sbatch(*words)
    run, metrics = tmp_path / "runs/classify/own", tmp_path / "runs/classify/own/metrics.jsonl"
    wait_until(lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= chaos_kinds.HIT)
    # fgvc status and fgvc cancel find the job by its run, as with --on.
    record = json.loads((run / "slurm.json").read_text())
    assert (record["job"], record["name"], record["log"]) == (job, "fgvc", f"{tmp_path}/log")
    client(bench.testbed, "scancel", "--signal=USR2", job)
    wait_until((run / "result.json").is_file)
    same_end(bench.undisturbed, run, chaos_kinds.STEPS)
    log = (tmp_path / "log").read_text()
    assert "stopped by SIGUSR2 at step" in log
    assert f"job {job} restarts" in log
    # A mistake is reported once and not retried.
    job = sbatch(*words, "optim.lr=1")
    wait_until(lambda: client(bench.testbed, "squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip() == "FAILED")
    assert "holds a run of another config: optim.lr (0.05 -> 1.0)" in (tmp_path / "log").read_text()
