"""Jobs on the test cluster: profiles are checked, commands submitted, arrays split, states read."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli import JOBS
from jobs.launch import read_profile, split_words
from shards.errors import DataError
from slurm import testbed_daemons as daemons
from slurm.errors import SlurmError
from slurm.profile import KEYS, Profile, check, check_cluster
from slurm.queue import Job, states
from slurm.submit import Submitted, Task, submit
from slurm.testbed import Partition, Testbed, down, missing_packages, up

pytestmark = pytest.mark.skipif(
    bool(missing_packages(accounting=False)),
    reason=f"Debian packages are missing: {' '.join(missing_packages(accounting=False))}",
)


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs and 2 GPUs, four of 8 GPUs, arrays of at most 4 tasks."""
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
    while any(job.live for job in states(one.job for one in submitted).values()):
        assert time.monotonic() < deadline, [one.log.read_text() for one in submitted if one.log.exists()]
        time.sleep(0.1)
    return list(states(one.job for one in submitted).values())


def test_tasks_become_arrays_split_at_the_clusters_limit_and_wait_for_others(tmp_path: Path) -> None:
    profile = Profile(cpus_per_task=1, time="5")
    # `fgvc help` ends well at once, an unknown command is the user's mistake.
    tasks = [Task("many", ("--help",), tmp_path / "runs" / str(i)) for i in range(6)]
    first = submit(profile, tasks)
    assert [one.job.partition("_")[2] for one in first] == ["0", "1", "2", "3", "4", ""]
    then = submit(profile, [Task("then", ("--help",), tmp_path / "runs/then")], after=[first[0].job, first[-1].job])
    assert {job.state for job in ended([*first, *then])} == {"COMPLETED"}
    assert "fgvc: from a folder of images" in then[0].log.read_text()
    bad = submit(profile, [Task("bad", ("clasify",), tmp_path / "runs/bad")])
    never = submit(profile, [Task("never", ("--help",), tmp_path / "runs/never")], after=[bad[0].job])
    assert [job.state for job in ended([*bad, *never])] == ["FAILED", "CANCELLED"]
    assert "no such command 'clasify'; did you mean classify?" in bad[0].log.read_text()
    assert "starts again" not in bad[0].log.read_text(), "a user's mistake is not tried again"


def test_profiles_that_come_with_the_suite_are_sound() -> None:
    for name in ("h100", "a100", "cpu", "testbed"):
        assert read_profile(name, []).ranks >= 1
    assert read_profile("h100", ["nodes=4", "time=8:00:00"]).ranks == 32


def test_launch_settings_are_no_jobs_settings() -> None:
    import dataclasses
    import importlib

    for module in JOBS.values():
        assert not KEYS & {field.name for field in dataclasses.fields(importlib.import_module(module).Config)}
    assert split_words(["nodes=2", "optim.lr=1", "env.A=b", "time=5"]) == (
        ["nodes=2", "env.A=b", "time=5"],
        ["optim.lr=1"],
    )


def test_what_does_not_fit_is_refused_before_anything_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="--on h10: no such cluster; did you mean 'h100'"):
        read_profile("h10", [])
    with pytest.raises(DataError, match="unknown key 'node'; did you mean 'nodes'"):
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
    with pytest.raises(SlurmError, match="one task a GPU"):
        check(Profile(gpus_per_node=8, tasks_per_node=4))
    monkeypatch.setenv("PATH", os.path.dirname(os.__file__))
    with pytest.raises(SlurmError, match="sinfo is not installed here: submit from a login node"):
        check_cluster(Profile())
