"""fgvc gan on the test cluster: two ranks, preempted once; a generator a class as an array of jobs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_commands import command, rows, wait_until
from gan_runs import gan_words, result_of
from slurm_helpers import skip_without_cluster

from shards.manifest import Manifest
from slurm.testbed.cluster import Testbed, client, down, missing_packages, up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(missing_packages(accounting=False)),
        reason=f"Debian packages are missing: {' '.join(missing_packages(accounting=False))}",
    ),
]


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    skip_without_cluster()
    made = up(tmp_path_factory.mktemp("slurm") / "slurm")
    yield made
    down(made.folder)


def test_two_ranks_that_were_preempted_end_as_if_nothing_had_been(
    testbed: Testbed, guide: Manifest, tmp_path: Path
) -> None:
    words = gan_words(guide, tmp_path / "runs", "preempted", "train.epochs=6", "train.precision=bf16")
    shown = command(
        testbed, tmp_path, *words, "--on", "testbed", "nodes=2", "tasks_per_node=1", "partition=preemptible"
    )
    job, run = shown.split(":")[0].removeprefix("job "), tmp_path / "runs/gan/preempted"
    metrics = run / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= 6, seconds=900)
    client(testbed, "sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    wait_until((run / "result.json").is_file, seconds=900)
    assert [row["step"] for row in rows(metrics)] == list(range(1, 31))
    assert result_of(run)["steps"] == 30
    assert len(json.loads((run / "starts.json").read_text())) == 2
    assert " done " in command(testbed, tmp_path, "status", str(run))
    assert job


def test_a_generator_a_class_is_an_array(testbed: Testbed, guide: Manifest, tmp_path: Path) -> None:
    words = gan_words(guide, tmp_path / "runs", "each", "train.batch=8", "train.max_steps=2", "measure.images=8")
    words = [*words, "per_class=true", "--on", "testbed"]
    shown = command(testbed, tmp_path, *words)
    assert shown.startswith("array ")
    assert "4 runs of gan/each on testbed" in shown
    runs = [tmp_path / f"runs/gan/each-{number:03d}-{name}" for number, name in enumerate(guide.classes)]
    runs = [run.with_name(run.name.replace(" ", "-")) for run in runs]
    wait_until(lambda: all((run / "result.json").is_file() for run in runs), seconds=1200)
    assert [result_of(run)["train_count"] for run in runs] == [20] * 4
    assert "all 4 runs are done" in command(testbed, tmp_path, *words)
