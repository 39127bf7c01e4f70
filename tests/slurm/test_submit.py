"""Submission on the test cluster: arrays are split, names kept, mistakes refused, restarts bounded."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_helpers import ended, enter, skip_without_cluster

from jobs.launch import read_profile
from shards.errors import UserError
from slurm import submit as submission
from slurm.errors import SlurmError
from slurm.profile import Profile, check_cluster, check_tasks
from slurm.queue import queue
from slurm.submit import RESTART, Launch, Submitted, submit
from slurm.testbed import daemons
from slurm.testbed.cluster import (
    Partition,
    Testbed,
    down,
    kill_controller,
    start_controller,
    up,
)

QUICK = Profile(cpus_per_task=1, time="5")


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs and 2 GPUs, four of 96 CPUs and 8 GPUs, arrays of at most 5 tasks (MaxArraySize)."""
    skip_without_cluster()
    h100 = Partition("h100", nodes=4, gpus=8, cpus=96, memory_mb=1_000_000)
    cluster = up(tmp_path_factory.mktemp("l"), partitions=[h100], settings={"MaxArraySize": "5"})
    yield cluster
    down(cluster.folder)


@pytest.fixture(autouse=True)
def _here(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(testbed, tmp_path, monkeypatch)


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
    with pytest.raises(SlurmError, match="partition=v100: this cluster has h100, high, normal, preemptible"):
        check_cluster(Profile(partition="normal,v100"))
    check_cluster(Profile(partition="normal,h100", gpus_per_node=8))
    with pytest.raises(SlurmError, match="one task runs per GPU"):
        check_tasks(Profile(gpus_per_node=8, tasks_per_node=4))
    monkeypatch.setenv("PATH", os.path.dirname(os.__file__))
    with pytest.raises(SlurmError, match="sinfo is not installed here: submit from a login node"):
        check_cluster(Profile())


def test_refusals_of_sbatch_come_with_advice(tmp_path: Path) -> None:
    for settings, said in (
        ({"memory": "900G"}, "Requested node configuration is not available; lower memory="),
        ({"constraint": "fast"}, "Invalid feature specification; set constraint= to features that the nodes have"),
        ({"sbatch": {"foo": "1"}}, "unrecognized option '--foo=1'"),
        ({"sbatch": {"reservation": "none"}}, "correct sbatch.reservation="),
    ):
        with pytest.raises(SlurmError) as caught:
            submit(Profile(cpus_per_task=1, time="5", **settings), [Launch("a", ("--help",), tmp_path / "run")])  # type: ignore[arg-type]
        assert str(caught.value).startswith("sbatch: ")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["it's", '"a" # b', "x|y", "$(id) `id`", "größe  1 ", "#SBATCH", "-x {a,b} ~*"])
def test_slurm_keeps_names_as_they_are(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "classify" / name
    [job] = submit(QUICK, [Launch(f"classify/{name}", ("--help",), folder)])
    assert queue()[job.job].name == f"classify/{name}", "live_job compares them"
    assert ended([job])[0].state == "COMPLETED"
    assert job.log.is_relative_to(folder)
    assert "fgvc: from a folder of images" in job.log.read_text()


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


def test_every_rank_sees_all_gpus_of_its_node(tmp_path: Path) -> None:
    shows = "sh -c 'echo saw $CUDA_VISIBLE_DEVICES on $SLURM_NODEID as $SLURM_LOCALID at $MASTER_ADDR' sh"
    profile = Profile(nodes=2, gpus_per_node=2, cpus_per_task=1, time="5", python=shows)
    [job] = submit(profile, [Launch("gpus", ("--help",), tmp_path / "run")])
    assert ended([job])[0].state == "COMPLETED"
    logs = [job.log.with_name(f"{job.job}_{rank}_log.out").read_text() for rank in range(4)]
    assert [next(line for line in log.splitlines() if line.startswith("saw")) for log in logs] == [
        f"saw 0,1 on {node} as {local} at n1" for node in (0, 1) for local in (0, 1)
    ]


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
    assert "the controller is down: try again later, or SLURM_CONF=" in str(caught.value)
    assert "; 5 of 6 were submitted before, as" in str(caught.value)
    start_controller(testbed.folder)


def test_progress_of_detectors_counts_as_that_of_their_job(tmp_path: Path) -> None:
    def newest() -> str:
        script = f'source "{RESTART}"; fgvc_run="{tmp_path}"; fgvc_newest'
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()

    assert newest() == "none"
    seen = ["none"]
    for number, place in enumerate(
        ["fold0/checkpoints/step-00000010", "fold0/result.json", "fold1/checkpoints/step-00000010"]
    ):
        path = tmp_path / "detect" / place
        path.mkdir(parents=True)
        os.utime(path, (1000 + number, 1000 + number))
        seen.append(newest())
    assert len(set(seen)) == 4
    (tmp_path / "checkpoints/step-00000003").mkdir(parents=True)
    (tmp_path / "checkpoints/step-00000020").mkdir()
    assert newest() == "step-00000020"
