"""The test cluster is a real Slurm: it schedules, preempts, survives dead nodes, and leaves nothing behind."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from places import ROOT
from slurm_helpers import a_sleep, eventually, job, processes, reaches, says, skip_without_cluster, submit

from slurm.errors import SlurmError
from slurm.testbed import daemons
from slurm.testbed.cluster import (
    Partition,
    Testbed,
    client,
    down,
    kill_controller,
    kill_node,
    restore_node,
    start_controller,
    status,
    up,
)


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    skip_without_cluster()


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two nodes of 4 CPUs and 2 GPUs."""
    spot = Partition("spot", preemptible=True, grace_s=0)
    cluster = up(tmp_path_factory.mktemp("a"), partitions=[spot])
    yield cluster
    down(cluster.folder)


def test_two_nodes_have_two_names_and_their_own_gpus(testbed: Testbed) -> None:
    printed = client(testbed, "srun", "-N2", "--gpus-per-node=2", "sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES")
    assert sorted(printed.splitlines()) == ["n1 0,1", "n2 0,1"]
    # Two jobs on one node get different GPUs.
    holder = submit(testbed, "sleep 30", "-w", "n1", "--gpus=1", "-J", "holder")
    reaches(testbed, holder, "RUNNING")
    assert client(testbed, "srun", "-w", "n1", "--gpus=1", "printenv", "CUDA_VISIBLE_DEVICES").strip() == "1"
    client(testbed, "scancel", holder)


def test_batch_job_reaches_its_nodes_by_name(testbed: Testbed) -> None:
    # What a distributed job does: the first host name of the allocation is where everybody connects.
    script = """
first=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)
srun sh -c "echo \\$SLURM_PROCID \\$(hostname) \\$(getent hosts $first | awk '{print \\$2}')"
"""
    reaches(testbed, submit(testbed, script, "-N2", "--ntasks-per-node=2", "-J", "names"), "COMPLETED")
    lines = (testbed.folder / "names.out").read_text().splitlines()
    assert sorted(lines) == ["0 n1 n1", "1 n1 n1", "2 n2 n1", "3 n2 n1"]


def test_jobs_hear_sigint(testbed: Testbed) -> None:
    # A daemon started by a shell's & would have jobs ignore it.
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert client(testbed, "srun", sys.executable, "-c", code).strip() == "True"


def test_high_priority_preempts_and_jobs_are_requeued(testbed: Testbed) -> None:
    # Without grace Slurm requeues at once. With it, the job first gets the signal it asked for, and may ask for its
    # requeue by itself rather than be killed at the end of the grace; one that just exits meanwhile is done.
    plain = "echo start $SLURM_RESTART_COUNT; srun sleep 100"
    asking = "trap 'echo USR2; scontrol requeue $SLURM_JOB_ID' USR2; echo start $SLURM_RESTART_COUNT; sleep 100 & wait"
    signal_me = "--signal=B:USR2@60"  # without B only job steps get it, not the script
    whole = ["-N1", "--exclusive"]
    victims = {
        submit(testbed, plain, "-p", "spot", *whole, "-J", "plain"): ["start", "start 1"],
        submit(testbed, asking, "-p", "preemptible", *whole, signal_me, "-J", "asking"): ["start", "USR2", "start 1"],
    }
    bystander = submit(testbed, "true", "-p", "normal", *whole, "-J", "bystander")
    for victim in victims:
        reaches(testbed, victim, "RUNNING")
    assert job(testbed, bystander)["JobState"] == "PENDING", "a normal job must not preempt"
    high = submit(testbed, "sleep 1", "-p", "high", "-N2", "--exclusive", "-J", "high")
    reaches(testbed, high, "COMPLETED")
    for victim, said in victims.items():
        reaches(testbed, victim, "RUNNING", restarts=1)
        out = testbed.folder / f"{job(testbed, victim)['JobName']}.out"
        assert eventually(partial(says, out, said))
    reaches(testbed, bystander, "COMPLETED")
    client(testbed, "scancel", *victims)


@pytest.mark.slow
def test_grace_is_a_sigterm_to_the_steps_then_a_requeue_of_what_still_runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    brief = Partition("brief", preemptible=True, grace_s=2)
    testbed = up(tmp_path_factory.mktemp("g"), partitions=[brief])
    try:
        whole = ["-p", "brief", "-N1", "--exclusive"]
        heard = "srun sh -c 'trap \"echo TERM\" TERM; echo start; while :; do sleep 0.2; done'"
        heeds = submit(testbed, heard, *whole, "-J", "heeds")
        dies = submit(testbed, "srun sleep 100", *whole, "-J", "dies")
        reaches(testbed, dies, "RUNNING")
        out = testbed.folder / "heeds.out"
        assert eventually(lambda: out.exists() and says(out, ["start"]))
        high = submit(testbed, "sleep 1", "-p", "high", "-N2", "--exclusive", "-J", "high")
        reaches(testbed, dies, "FAILED")
        reaches(testbed, high, "COMPLETED")
        reaches(testbed, heeds, "RUNNING", restarts=1)

        def heard_and_restarted() -> bool:
            said = [line for line in out.read_text().splitlines() if line in ("start", "TERM")]
            return said[:2] == ["start", "TERM"] and said.count("start") == 2

        assert eventually(heard_and_restarted), out.read_text()
    finally:
        down(testbed.folder)


def test_a_killed_node_requeues_its_job_and_comes_back(testbed: Testbed) -> None:
    sleep = a_sleep(1)
    victim = submit(testbed, f"srun -N2 -n2 {sleep}", "-N2", "-J", "on-two-nodes")
    reaches(testbed, victim, "RUNNING")
    assert eventually(lambda: len([line for line in processes(sleep) if "srun" not in line]) == 2)
    pid = status(testbed.folder).daemons["n2"]
    kill_node(testbed.folder, "n2")
    assert "n2" not in status(testbed.folder).daemons
    assert not Path(f"/proc/{pid}").exists()
    assert status(testbed.folder).nodes["n2"].startswith("down")
    assert not daemons.on_hosts(testbed, ["n2"])
    assert daemons.on_hosts(testbed, ["n1"]), "the other node must not die with it"
    reaches(testbed, victim, "PENDING", restarts=1)
    restore_node(testbed.folder, "n2")
    assert not status(testbed.folder).nodes["n2"].startswith("down")
    reaches(testbed, victim, "RUNNING", restarts=1)
    client(testbed, "scancel", victim)
    assert eventually(lambda: not processes(sleep))


def test_jobs_outlive_the_controller(testbed: Testbed) -> None:
    survivor = submit(testbed, "sleep 6", "-J", "survivor")
    reaches(testbed, survivor, "RUNNING")
    # slurmctld saves its state every few seconds; what it has not saved dies with it.
    saved, since = testbed.folder / "state" / "job_state", time.time()
    assert eventually(lambda: saved.stat().st_mtime > since)
    kill_controller(testbed.folder)
    assert status(testbed.folder).jobs is None
    start_controller(testbed.folder)
    assert job(testbed, survivor)["Restarts"] == "0"
    reaches(testbed, survivor, "COMPLETED")


def test_second_cluster_beside_the_first_with_a_partition_of_its_own(
    testbed: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sleep = a_sleep(2)
    h100 = Partition("h100", nodes=4, gpus=8, cpus=96, memory_mb=1_000_000)
    other = up(tmp_path_factory.mktemp("b"), nodes=1, partitions=[h100], settings={"MaxArraySize": "10"})
    try:
        assert client(other, "srun", "hostname").strip() == "n1"
        held = submit(other, sleep, "-J", "held")
        assert client(testbed, "squeue", "-h", "-n", "held") == ""
        whole = ["--test-only", "-p", "h100", "-N4", "--ntasks-per-node=8", "-c12", "--mem=900G", "-C", "h100"]
        client(other, "sbatch", *whole, "--gpus-per-node=8", "--wrap", "true")
        with pytest.raises(SlurmError, match="not available"):
            client(other, "sbatch", *whole, "--gpus-per-node=9", "--wrap", "true")
        with pytest.raises(SlurmError, match="Invalid job array"):
            submit(other, "true", "--array=0-10")
        printed = client(other, "srun", "-p", "h100", "-N4", "--gpus-per-node=8", "printenv", "CUDA_VISIBLE_DEVICES")
        assert printed.splitlines() == ["0,1,2,3,4,5,6,7"] * 4
        reaches(other, held, "RUNNING")
    finally:
        down(other.folder)
    assert not processes(str(other.folder))
    assert not processes(sleep)
    assert set(status(testbed.folder).daemons) == {"munged", "slurmctld", "n1", "n2"}
    assert client(testbed, "srun", "hostname").strip() in ("n1", "n2")


def test_down_ends_what_jobs_left_behind_and_ids_go_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("c")
    testbed = up(folder, nodes=1)
    # Out of the job's process group and session, deaf to SIGTERM: proctrack/linuxproc loses it, `down` must not.
    sleep = a_sleep(3)
    stray = f"setsid sh -c 'trap \"\" TERM; echo up >> stray; {sleep}; {sleep}' & wait"
    last = submit(testbed, stray, "-J", "stray")
    assert eventually((folder / "stray").exists)
    assert processes(sleep)
    down(folder)
    assert not processes(sleep)
    assert not processes(str(folder))
    assert not status(folder).running
    with pytest.raises(SlurmError, match="no cluster runs in"):
        down(folder)
    testbed = up(folder, nodes=1, gpus_per_node=0)
    try:
        assert status(folder).jobs == 0
        assert int(submit(testbed, "true")) > int(last)
    finally:
        down(folder)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for Slurm's sockets, however the tests are run."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as folder:
        yield Path(folder)


def test_mistakes_are_named(testbed: Testbed, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlurmError, match=f"already runs in {testbed.folder}"):
        up(testbed.folder)
    assert client(testbed, "srun", "hostname"), "the refused one must not harm the running one"
    with pytest.raises(SlurmError, match="ever started"):
        down(short_path)
    assert not status(short_path).running
    with pytest.raises(SlurmError, match=r"no node 'n3' .*n1, n2"):
        kill_node(testbed.folder, "n3")
    with pytest.raises(SlurmError, match=r"'n1' .*is running"):
        restore_node(testbed.folder, "n1")
    with pytest.raises(SlurmError, match="is running"):
        start_controller(testbed.folder)
    with pytest.raises(SlurmError, match="too long a path"):
        up(short_path / ("x" * 60))
    with pytest.raises(SlurmError, match="'normal' is given twice"):
        up(short_path / "d", partitions=[Partition("normal")])
    with pytest.raises(SlurmError, match="'n1' cannot have 0 CPUs"):
        up(short_path / "d", cpus_per_node=0)
    (short_path / "file").write_text("")
    with pytest.raises(SlurmError, match=f"cannot write to {short_path}/file"):
        up(short_path / "file")
    with pytest.raises(SlurmError, match=f"{short_path} holds no cluster but other files .d.; choose an empty"):
        up(short_path)
    for name in ("a b", "a#b", "a%n", "a,b", "a\nb"):
        with pytest.raises(SlurmError, match=r"slurm\.conf cannot hold a path with"):
            up(short_path / name)
    with pytest.raises(SlurmError, match="cannot be a setting: it contains a control character"):
        up(short_path / "d", settings={"MaxArraySize": "7\nFoo=1"})
    monkeypatch.setattr(daemons, "PATH", "/nonexistent")
    with pytest.raises(SlurmError, match="apt-get install slurmctld slurmd slurm-client munge"):
        up(short_path / "d")


def test_a_daemon_that_cannot_start_is_named_and_nothing_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("e")
    with pytest.raises(SlurmError, match=r"slurmctld.*NoSuchSetting"):
        up(folder, settings={"NoSuchSetting": "1"})
    assert not processes(str(folder))


def test_packages_to_install_are_those_looked_for() -> None:
    lines = [line for line in daemons.PACKAGES.read_text().splitlines() if not line.startswith("#")]
    assert lines == list(daemons.PROGRAMS)


def test_normal_user_can_do_it_too() -> None:
    if os.getuid() != 0:
        pytest.skip("these tests already run as a normal user")
    nobody = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp(prefix="nobody"))
    try:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_nobody = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        python = [*as_nobody, sys.executable, "-B", "-c"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
        able = subprocess.run([*python, "import slurm.testbed.daemons as d; d.unshare()"], env=env, cwd=folder)
        if able.returncode:
            pytest.skip("user nobody cannot run this Python, read this repository or make namespaces")
        sleep = a_sleep(4)
        code = f"""
from pathlib import Path
from slurm.testbed.cluster import client, down, kill_node, restore_node, up
testbed = up(Path("t"))
who = "echo $(id -un) $(hostname) $CUDA_VISIBLE_DEVICES"
print(client(testbed, "srun", "-N2", "--gpus-per-node=1", "sh", "-c", who))
client(testbed, "sbatch", "-N2", "--wrap", "{sleep}")
kill_node(testbed.folder, "n2")
restore_node(testbed.folder, "n2")
down(testbed.folder)
"""
        result = subprocess.run([*python, code], env=env, cwd=folder, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert sorted(result.stdout.split("\n")) == ["", "", "nobody n1 0", "nobody n2 0"]
        assert not processes(str(folder))
        assert not processes(sleep)
    finally:
        shutil.rmtree(folder)
