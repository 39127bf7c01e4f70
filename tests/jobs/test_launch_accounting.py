"""With accounting: a forbidden account is named before anything runs, and states of old jobs are known."""

from pathlib import Path

import pytest
from slurm_helpers import eventually, skip_without_cluster

from jobs.cli import main
from slurm.profile import Profile
from slurm.queue import queue, states
from slurm.submit import Launch, submit
from slurm.testbed.cluster import down, missing_packages, up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_packages()), reason=f"Debian packages are missing: {' '.join(missing_packages())}"),
]


def test_accounts_and_states_of_jobs_that_left_the_queue(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_cluster(accounting=True)
    folder = tmp_path_factory.mktemp("acct")
    testbed = up(folder / "slurm", accounting=True, settings={"MinJobAge": "2", "MaxArraySize": "10"})
    try:
        for key, value in testbed.env.items():
            monkeypatch.setenv(key, value)
        monkeypatch.chdir(folder)
        assert main(["classify", "name=a", "--on", "testbed", "account=nobody-pays"]) == 2
        message = capsys.readouterr().err
        assert message.startswith("fgvc classify: sbatch: ")
        assert "Invalid account" in message
        assert "set account= to one that may use this partition" in message
        assert message.count("\n") == 1
        assert main(["classify", "name=a", "--on", "testbed", "qos=gold"]) == 2
        assert "set qos= to one of yours" in capsys.readouterr().err
        profile = Profile(cpus_per_task=1, time="5", account="research")
        launches = [Launch("many", ("--help",) if i else ("no-such-command",), Path("runs") / str(i)) for i in range(3)]
        jobs = [entry.job for entry in submit(profile, launches)]
        assert eventually(lambda: not any(job in queue() for job in jobs), 150), "MinJobAge is 2 s"
        assert eventually(
            lambda: [job.state for job in states(jobs).values()] == ["FAILED", "COMPLETED", "COMPLETED"], 30
        )
        assert states(["99"])["99"].state == "UNKNOWN"
    finally:
        down(testbed.folder)
