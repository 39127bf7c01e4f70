"""With accounting, the test cluster knows how every job ended, and still does after it was brought up again."""

import pytest
from slurm_helpers import eventually, processes, reaches, skip_without_cluster, submit

from slurm.errors import SlurmError
from slurm.testbed.cluster import client, down, kill_node, missing_packages, status, up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_packages()), reason=f"Debian packages are missing: {' '.join(missing_packages())}"),
]


def test_accounting_knows_how_jobs_ended(tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without_cluster(accounting=True)
    folder = tmp_path_factory.mktemp("f")
    testbed = up(folder, accounting=True)
    try:
        with pytest.raises(SlurmError, match="Invalid account"):
            submit(testbed, "true", "-A", "nobody-pays")
        good = submit(testbed, "true", "-A", "research", "--gpus=1")
        bad = submit(testbed, "exit 3")
        cancelled = submit(testbed, "sleep 100", "-w", "n1")
        reaches(testbed, cancelled, "RUNNING")
        client(testbed, "scancel", cancelled)
        lost = submit(testbed, "sleep 100", "-w", "n2", "--no-requeue")
        reaches(testbed, lost, "RUNNING")
        kill_node(folder, "n2")
        want = {good: "COMPLETED", bad: "FAILED", cancelled: "CANCELLED", lost: "NODE_FAIL"}

        def states() -> dict[str, str]:
            lines = client(testbed, "sacct", "-X", "-n", "-P", "-o", "jobid,state").splitlines()
            # "CANCELLED by 0": only the first word is the state.
            return {job_id: state.split()[0] for job_id, state in (line.split("|") for line in lines)}

        assert eventually(lambda: states() == want, seconds=30), (states(), want)
        tres = client(testbed, "sacct", "-X", "-n", "-P", "-j", good, "-o", "alloctres")
        assert "gres/gpu=1" in tres
        # History survives the cluster.
        down(folder)
        testbed = up(folder, accounting=True)
        assert states() == want
    finally:
        if status(folder).running:
            down(folder)
    assert not processes(str(folder))
