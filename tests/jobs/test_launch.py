"""`--on CLUSTER` on the test cluster: what is submitted, refused, followed and cancelled."""

import dataclasses
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from slurm_helpers import ended, enter, eventually, skip_without_cluster

from jobs import launch as launching
from jobs.classify import Config
from jobs.cli import main
from jobs.launch import launch_of, read_profile, split_words
from jobs.registry import JOBS, command_module
from slurm.profile import KEYS, Profile
from slurm.queue import states
from slurm.submit import Launch, submit
from slurm.testbed.cluster import (
    Partition,
    Testbed,
    client,
    down,
    up,
)

QUICK = Profile(cpus_per_task=1, time="5")


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs and 2 GPUs, four of 96 CPUs and 8 GPUs."""
    skip_without_cluster()
    h100 = Partition("h100", nodes=4, gpus=8, cpus=96, memory_mb=1_000_000)
    cluster = up(tmp_path_factory.mktemp("l"), partitions=[h100])
    yield cluster
    down(cluster.folder)


@pytest.fixture(autouse=True)
def _here(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(testbed, tmp_path, monkeypatch)


def test_looking_at_a_config_submits_nothing(testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["classify", str(ROOT / "configs/classify/field_guide.yaml"), "--on", "testbed", "nodes=2", "seed=7"]
    assert main([*words, "--print-config"]) == 0
    assert "\nseed: 7\n" in capsys.readouterr().out
    assert main([*words, "--print-folder"]) == 0
    assert capsys.readouterr().out == "runs/classify/field_guide\n"
    assert client(testbed, "squeue", "-h") == ""
    assert list(tmp_path.iterdir()) == []
    assert main([*words[:2], "--follow"]) == 2
    assert "it goes with --on CLUSTER" in capsys.readouterr().err


def test_shipped_profiles_are_valid() -> None:
    for name in ("h100", "a100", "cpu", "testbed"):
        assert read_profile(name, []).ranks >= 1
    assert read_profile("h100", ["nodes=4", "time=8:00:00"]).ranks == 32


def test_launch_settings_are_no_jobs_settings() -> None:
    for name in JOBS:
        assert not KEYS & {field.name for field in dataclasses.fields(command_module(name).Config)}
    assert split_words(["nodes=2", "optim.lr=1", "env.A=b", "time=5"]) == (
        ["nodes=2", "env.A=b", "time=5"],
        ["optim.lr=1"],
    )


def test_vit_large_on_four_h100_nodes_is_accepted_by_slurm(
    testbed: Testbed, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "configs/classify/cub200_vit_l16.yaml"
    assert main(["classify", str(config), "--on", "h100", "nodes=4", "optim.lr=1e-4", "--dry-run"]) == 0
    script = capsys.readouterr().out
    for line in (
        f"# fgvc classify {config} optim.lr=1e-4", "#SBATCH --nodes=4", "#SBATCH --gpus-per-node=8",
        "#SBATCH --ntasks-per-node=8", "#SBATCH --signal=USR2@180", "#SBATCH --requeue", "export NCCL_DEBUG=WARN",
    ):  # fmt: skip
        assert line in script.splitlines()
    accepted = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    assert "to start at" in accepted.stderr
    assert "using 384 processors on nodes h100-[1-4]" in accepted.stderr
    assert not Path("runs").exists(), "a dry run writes nothing"
    too_many = script.replace("--gpus-per-node=8", "--gpus-per-node=9")
    assert subprocess.run(["sbatch", "--test-only"], input=too_many, capture_output=True, text=True).returncode


def test_one_job_per_run_folder(testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["classify", "name=one", "--on", "testbed"]
    client(testbed, "scontrol", "update", "partitionname=normal", "state=down")
    try:
        assert main([*words, "cpus_per_task=2"]) == 0
        shown = capsys.readouterr().out
        number = shown.split(":")[0].removeprefix("job ")
        assert f"job {number}: classify/one on testbed, 1 node x 1 rank\n  folder  runs/classify/one\n" in shown
        assert main(words) == 2
        assert capsys.readouterr().err == (
            f"fgvc classify: runs/classify/one: job {number} (PENDING) uses this folder; wait for it, run "
            f"fgvc cancel {number}, or set another name=\n"
        )
        assert main(["status"]) == 0
        assert f"classify/one  PENDING (PartitionDown)  {number}" in capsys.readouterr().out
        assert main(["cancel", "classify/one"]) == 0
        assert capsys.readouterr().out.startswith(f"cancelled job {number} (classify/one)")
        assert main(["cancel", number]) == 2
        assert f"{number}: you have no such job in the queue" in capsys.readouterr().err
    finally:
        client(testbed, "scontrol", "update", "partitionname=normal", "state=up")
    assert states([number])[number].state == "CANCELLED"
    assert main(["classify", "--on", "testbed", "nodes=3", "name=two"]) == 2
    assert "nodes=3: partition normal has 2 such nodes" in capsys.readouterr().err
    assert main(["classify", "--on", "testbed", "optim.rl=3"]) == 2
    assert "unknown key 'optim.rl'; did you mean 'optim.lr'" in capsys.readouterr().err


def test_an_unknown_partition_is_refused_before_anything_is_written(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(ROOT / "configs/classify/field_guide.yaml")
    for command in ("classify", "compare"):
        assert main([command, config, "name=a", "--on", "a100"]) == 2
        message = f"fgvc {command}: partition=a100: this cluster has h100, high, normal, preemptible; set partition=\n"
        assert capsys.readouterr().err == message
    assert client(testbed, "squeue", "-h", "-t", "all", "-n", "classify/a,compare/a") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_job_stays_cancelled_though_the_run_asked_for_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a run does on SIGTERM: save, then exit with the code that otherwise requests a restart.
    saves = "sh -c 'trap \"exit 3\" TERM; echo ready; sleep 100 & wait' sh"
    [job] = submit(Profile(cpus_per_task=1, time="5", python=saves), [Launch("a", ("--help",), tmp_path / "run")])
    assert eventually(lambda: job.log.exists() and "ready" in job.log.read_text())
    assert main(["cancel", str(tmp_path / "run")]) == 0
    assert ended([job])[0].state == "CANCELLED"
    assert not eventually(lambda: states([job.job])[job.job].state != "CANCELLED", seconds=2)
    assert " restarts (Slurm" not in job.log.read_text()
    assert main(["cancel", str(tmp_path / "run")]) == 2
    assert "you have no such job in the queue" in capsys.readouterr().err


def test_follow_prints_the_log_and_returns_the_jobs_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "POLL_S", 0.2)
    [good] = submit(QUICK, [Launch("good", ("--help",), tmp_path / "good")])
    assert launching.follow_log(good, 0.1) == 0
    shown = capsys.readouterr().out
    assert shown.count("fgvc: from a folder of images") == 1
    assert shown.endswith(f"job {good.job}: COMPLETED\n")
    [bad] = submit(QUICK, [Launch("bad", ("no-such",), tmp_path / "bad")])
    assert launching.follow_log(bad, 0.1) == 1
    shown = capsys.readouterr().out
    assert "no such command 'no-such'" in shown
    assert shown.endswith(f"job {bad.job}: FAILED\n")


def test_folders_of_the_profile_reach_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    profile = Profile(scratch="$SCRATCH/fgvc", cache="$TMPDIR/shards")
    command, config = launch_of(profile, "classify", Config, None, ["name=a"])
    # The cache is local to the node: the job expands its variable.
    assert command.words == ("classify", "name=a", f"runs_dir={tmp_path}/fgvc/runs", "data.cache=$TMPDIR/shards")
    assert command.folder == tmp_path / "fgvc/runs/classify/a"
    assert config.data.cache == "$TMPDIR/shards"
    command, _ = launch_of(profile, "classify", Config, None, ["name=a", "runs_dir=mine", "data.cache=/here"])
    assert command.words == ("classify", "name=a", "runs_dir=mine", "data.cache=/here")


def test_no_cluster_and_misplaced_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", "name=a", "nodes=2"]) == 2
    assert main(["classify", "name=a", "--on", "testbed", "--processes", "2"]) == 2
    monkeypatch.delenv("SLURM_CONF")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a running test cluster would be found
    assert main(["classify", "name=a", "--on", "testbed"]) == 2
    assert main(["classify", "name=a", "--on", "h100"]) == 2
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "gone.conf"))
    assert main(["classify", "name=a", "--on", "h100"]) == 2
    assert main(["cancel", "1"]) == 2
    first, second, third, fourth, fifth, sixth = capsys.readouterr().err.splitlines()
    assert first == "fgvc classify: 'nodes=2' is a setting of a cluster: it goes with --on CLUSTER"
    assert second.startswith("fgvc classify: --processes starts ranks on this machine")
    assert third == "fgvc classify: --on testbed: no test cluster runs here; start one: fgvc cluster up"
    assert fourth.endswith(": no cluster is known here: log in to one, or start a small one: fgvc cluster up")
    assert fifth.startswith(f"fgvc classify: SLURM_CONF={tmp_path}/gone.conf: no such file; unset SLURM_CONF")
    assert sixth.startswith(f"fgvc cancel: SLURM_CONF={tmp_path}/gone.conf: no such file")
