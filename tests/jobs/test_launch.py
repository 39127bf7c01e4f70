"""Jobs on the test cluster: profiles are checked, commands submitted, arrays split, states read."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT
from slurm_helpers import eventually

from jobs import launch as launching
from jobs.classify import Config
from jobs.cli import main
from jobs.launch import launch_of, read_profile, split_words
from jobs.registry import JOBS, command_module
from shards.errors import UserError
from slurm import submit as submission
from slurm.errors import SlurmError
from slurm.profile import KEYS, Profile, check, check_cluster
from slurm.queue import Job, states
from slurm.submit import Launch, Submitted, submit
from slurm.testbed import daemons
from slurm.testbed.cluster import (
    Partition,
    Testbed,
    client,
    down,
    kill_controller,
    missing_packages,
    start_controller,
    up,
)

QUICK = Profile(cpus_per_task=1, time="5")

pytestmark = pytest.mark.skipif(
    bool(missing_packages(accounting=False)),
    reason=f"Debian packages are missing: {' '.join(missing_packages(accounting=False))}",
)


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs and 2 GPUs, four of 8 GPUs, arrays of at most 5 tasks (MaxArraySize)."""
    try:
        daemons.unshare()
    except SlurmError as error:
        pytest.skip(str(error))
    h100 = Partition("h100", nodes=4, gpus=8, cpus=96, memory_mb=1_000_000)
    cluster = up(tmp_path_factory.mktemp("l"), partitions=[h100], settings={"MaxArraySize": "5"})
    yield cluster
    down(cluster.folder)


@pytest.fixture(autouse=True)
def _here(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in testbed.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)


def ended(submitted: list[Submitted], seconds: float = 60) -> list[Job]:
    """The jobs, once all have ended."""
    deadline = time.monotonic() + seconds
    while any(job.live for job in states(entry.job for entry in submitted).values()):
        assert time.monotonic() < deadline, [entry.log.read_text() for entry in submitted if entry.log.exists()]
        time.sleep(0.1)
    return list(states(entry.job for entry in submitted).values())


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


def test_launches_become_arrays_of_the_clusters_size_and_wait_for_others(tmp_path: Path) -> None:
    profile = QUICK
    # `fgvc --help` succeeds at once, an unknown command is a user's mistake.
    launches = [Launch("many", ("--help",), tmp_path / "runs" / str(i)) for i in range(6)]
    first = submit(profile, launches)
    assert [entry.job.partition("_")[2] for entry in first] == ["0", "1", "2", "3", "4", ""]
    then = submit(profile, [Launch("then", ("--help",), tmp_path / "runs/then")], after=[first[0].job, first[-1].job])
    assert {job.state for job in ended([*first, *then])} == {"COMPLETED"}
    assert "fgvc: from a folder of images" in then[0].log.read_text()
    bad = submit(profile, [Launch("bad", ("clasify",), tmp_path / "runs/bad")])
    never = submit(profile, [Launch("never", ("--help",), tmp_path / "runs/never")], after=[bad[0].job])
    assert [job.state for job in ended([*bad, *never])] == ["FAILED", "CANCELLED"]
    assert "no such command 'clasify'; did you mean classify?" in bad[0].log.read_text()
    assert " restarts (Slurm" not in bad[0].log.read_text(), "a user's mistake is not retried"


def test_shipped_profiles_are_valid() -> None:
    for name in ("h100", "a100", "cpu", "testbed"):
        assert read_profile(name, []).ranks >= 1
    assert read_profile("h100", ["nodes=4", "time=8:00:00"]).ranks == 32


def test_launch_settings_are_no_jobs_settings() -> None:
    import dataclasses

    for name in JOBS:
        assert not KEYS & {field.name for field in dataclasses.fields(command_module(name).Config)}
    assert split_words(["nodes=2", "optim.lr=1", "env.A=b", "time=5"]) == (
        ["nodes=2", "env.A=b", "time=5"],
        ["optim.lr=1"],
    )


def test_what_does_not_fit_the_cluster_is_refused_before_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--on h10: no such cluster; did you mean 'h100'"):
        read_profile("h10", [])
    with pytest.raises(UserError, match="unknown key 'node'; did you mean 'nodes'"):
        read_profile("h100", ["node=2"])
    with pytest.raises(SlurmError, match="time=tomorrow: Slurm takes"):
        read_profile("h100", ["time=tomorrow"])
    with pytest.raises(SlurmError, match="gpus_per_node=9: a node of partition h100 has 8; lower"):
        check_cluster(Profile(partition="h100", gpus_per_node=9))
    with pytest.raises(SlurmError, match="nodes=5: partition h100 has 4 such nodes"):
        check_cluster(Profile(partition="h100", gpus_per_node=8, nodes=5))
    with pytest.raises(SlurmError, match="gpus_per_node=3: a node of partition normal has 2"):
        check_cluster(Profile(gpus_per_node=3))
    with pytest.raises(SlurmError, match=r"8 tasks x cpus_per_task=16: a node of partition h100 has 96 CPUs"):
        check_cluster(Profile(partition="h100", gpus_per_node=8, cpus_per_task=16))
    with pytest.raises(SlurmError, match="partition=v100: this cluster has h100, high, normal, preemptible"):
        check_cluster(Profile(partition="v100"))
    with pytest.raises(SlurmError, match="one task runs per GPU"):
        check(Profile(gpus_per_node=8, tasks_per_node=4))
    monkeypatch.setenv("PATH", os.path.dirname(os.__file__))
    with pytest.raises(SlurmError, match="sinfo is not installed here: submit from a login node"):
        check_cluster(Profile())


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


def test_a_job_that_never_saves_is_not_restarted_forever(tmp_path: Path) -> None:
    broken = Profile(cpus_per_task=1, time="5", max_restarts=1, python="false")
    [job] = submit(broken, [Launch("broken", ("--help",), tmp_path / "run")])
    assert ended([job])[0].state == "FAILED"
    log = job.log.read_text()
    assert log.count("asking Slurm to requeue it") == 1
    assert "was started 2 times without a new checkpoint (latest: none): giving up" in log


def test_a_folder_that_is_not_writable_or_missing_on_a_node(testbed: Testbed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlurmError, match=r"file/run: not writable .*set runs_dir= to a folder that is"):
        submit(QUICK, [Launch("a", ("--help",), tmp_path / "file/run")])
    if os.getuid() != 0:
        pytest.skip("hiding a folder from a node needs root")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # The node has its own mounts: an empty disk hides the folder on that node only.
    pid = daemons.running(testbed.folder)["n2"]
    subprocess.run(["nsenter", "-t", str(pid), "-m", "mount", "-t", "tmpfs", "tmpfs", str(hidden)], check=True)
    two = Profile(cpus_per_task=1, nodes=2, time="5")
    [job] = submit(two, [Launch("hidden", ("--help",), hidden / "run")])
    assert ended([job])[0].state == "FAILED"
    assert (
        f"{job.log.parent} is missing on some nodes; set runs_dir= to a folder that all nodes share"
        in job.log.read_text()
    )
    assert "asking Slurm" not in job.log.read_text()


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


def test_every_rank_sees_all_gpus_of_its_node(tmp_path: Path) -> None:
    shows = "sh -c 'echo saw $CUDA_VISIBLE_DEVICES on $SLURM_NODEID as $SLURM_LOCALID at $MASTER_ADDR' sh"
    profile = Profile(nodes=2, gpus_per_node=2, cpus_per_task=1, time="5", python=shows)
    [job] = submit(profile, [Launch("gpus", ("--help",), tmp_path / "run")])
    assert ended([job])[0].state == "COMPLETED"
    logs = [job.log.with_name(f"{job.job}_{rank}_log.out").read_text() for rank in range(4)]
    assert [next(line for line in log.splitlines() if line.startswith("saw")) for log in logs] == [
        f"saw 0,1 on {node} as {local} at n1" for node in (0, 1) for local in (0, 1)
    ]


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


def test_no_cluster_and_misplaced_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "name=a", "nodes=2"]) == 2
    assert main(["classify", "name=a", "--on", "testbed", "--processes", "2"]) == 2
    monkeypatch.delenv("SLURM_CONF")
    assert main(["classify", "name=a", "--on", "testbed"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "fgvc classify: 'nodes=2' is a setting of a cluster: it goes with --on CLUSTER"
    assert second.startswith("fgvc classify: --processes starts ranks on this machine")
    assert "no cluster is known here: log in to one, or fgvc cluster up and export SLURM_CONF" in third


def test_slurm_dying_during_a_submission_reports_what_was_submitted(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = submission._submit_one

    def dies_after(*arguments: object) -> list[Submitted]:
        done = real(*arguments)  # type: ignore[arg-type]
        kill_controller(testbed.folder)
        return done

    monkeypatch.setattr(submission, "_submit_one", dies_after)
    launches = [Launch("many", ("--help",), tmp_path / "runs" / str(i)) for i in range(6)]
    with pytest.raises(SlurmError) as caught:
        submit(QUICK, launches)
    assert "\n" not in str(caught.value)
    assert "slurmctld is down: try again later; 5 of 6 were submitted before, as" in str(caught.value)
    start_controller(testbed.folder)
