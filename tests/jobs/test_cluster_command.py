"""`fgvc cluster`: what it prints is what a user can paste, and every mistake is one line."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from slurm_helpers import skip_without_cluster

from jobs.cli import main as fgvc
from jobs.cluster import main, parse_partition
from shards.errors import UserError
from slurm.errors import SlurmError
from slurm.testbed import cluster as testbed
from slurm.testbed.cluster import Partition, missing_packages
from slurm.testbed.current import current


@pytest.fixture(autouse=True)
def _default_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `up` remembers, and the default folder, apart from a cluster of the user's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
    monkeypatch.delenv("SLURM_CONF", raising=False)


def test_up_shows_how_to_use_it_and_down_stops_it(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without_cluster()
    where = ["--folder", str(tmp_path_factory.mktemp("cli"))]
    assert main(["status", *where]) == 1
    assert "No cluster runs" in capsys.readouterr().out
    size = ["--nodes", "1", "--gpus", "3", "--cpus", "5"]
    assert main(["up", *where, *size, "--partition", "h100:nodes=2,gpus=8", "--set", "MaxArraySize=7"]) == 0
    try:
        shown = capsys.readouterr().out
        export = re.search(r"^ +(export SLURM_CONF=.*)$", shown, re.MULTILINE)
        assert export is not None
        # As a user would: paste the line into a shell, then query Slurm.
        ask = f"{export[1]}; sinfo -h -o '%R %D %G %c' | sort -u; scontrol show config | grep MaxArraySize"
        env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        seen = subprocess.run(["sh", "-c", ask], capture_output=True, text=True, check=True, env=env).stdout
        assert "h100 2 gpu:8 64" in seen
        assert "normal 1 gpu:3 5" in seen
        assert re.search(r"MaxArraySize += 7\n", seen)
        assert main(["status", *where]) == 0
        shown = capsys.readouterr().out
        assert export[1] in shown
        assert re.search(r"h100-2 +pid \d+ +idle", shown)
        assert "0 jobs in the queue" in shown
    finally:
        assert main(["down", *where]) == 0
    assert main(["status", *where]) == 1
    with pytest.raises(SlurmError, match="no cluster runs in"):
        main(["down", *where])


def test_on_testbed_finds_the_cluster_without_slurm_conf(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip_without_cluster()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path_factory.mktemp("found")
    assert main(["up", "--folder", str(folder), "--nodes", "1"]) == 0
    try:
        assert main(["status"]) == 0, "without --folder: the cluster started last"
        assert f"Cluster in {folder}" in capsys.readouterr().out
        assert fgvc(["classify", "name=a", "--on", "testbed", "nodes=2"]) == 2
        assert "nodes=2: partition normal has 1 such nodes" in capsys.readouterr().err
        assert os.environ["SLURM_CONF"] == f"{folder}/etc/slurm.conf"
        monkeypatch.delenv("SLURM_CONF")
        assert fgvc(["classify", "name=a", "--on", "h100"]) == 2
        assert "partition=h100: this cluster has high, normal, preemptible" in capsys.readouterr().err
        monkeypatch.delenv("SLURM_CONF")
        assert fgvc(["cancel", "99"]) == 2
        assert "99: you have no such job in the queue" in capsys.readouterr().err
    finally:
        monkeypatch.delenv("SLURM_CONF", raising=False)
        assert main(["down"]) == 0
    assert fgvc(["classify", "name=a", "--on", "testbed"]) == 2
    assert "no test cluster runs here; start one: fgvc cluster up" in capsys.readouterr().err


def test_a_record_that_is_not_ours_or_broken_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = testbed.default_folder()
    home.mkdir()
    assert current() is None
    (home / "last").write_text(f"{tmp_path}/gone\n")
    (home / "testbed.json").write_text('{"nodes": [{"nmae": "n1"}]}')
    assert current() is None
    with pytest.raises(SlurmError, match=r"testbed.json: not readable as the record of a cluster"):
        main(["status"])
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert current() is None


def test_partitions_are_written_as_one_word() -> None:
    assert parse_partition("plain") == Partition("plain")
    assert parse_partition("h100:nodes=4,gpus=2,preemptible=yes,grace_s=0,max_time=1-02:00:00") == Partition(
        "h100", nodes=4, gpus=2, preemptible=True, grace_s=0, max_time="1-02:00:00"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition", "h100:gpu=8"], "unknown key 'gpu'; did you mean 'gpus'"),
        (["--partition", "h100:gpus=many"], "gpus=many: expected a whole number"),
        (["--partition", "h100:preemptible=maybe"], "preemptible=maybe: expected yes or no"),
        (["--partition", "h100:gpus"], "'gpus' is not of the form KEY=VALUE"),
        (["--partition", "h 1"], "'h 1' cannot be a partition's name"),
        (["--partition", "Default"], "'Default' cannot be a partition's name: Slurm reserves it"),
        (["--set", "MaxArraySize"], "'MaxArraySize' is not of the form KEY=VALUE"),
        (["--nodes", "many"], "--nodes: invalid int value: 'many'; see fgvc cluster up --help"),
        (["--folder", ""], "argument --folder: expected a folder, this is empty"),
        (["--nodes", "0"], "at least 1 shared node, not 0"),
        (["--gpu-type", "h100"], "unrecognized arguments: --gpu-type h100"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if missing_packages(accounting=False) and not words[1].startswith(("h100:", "Max", "many")):
        pytest.skip("missing packages are reported first")
    with pytest.raises((SlurmError, UserError)) as caught:
        main(["up", "--folder", str(tmp_path_factory.mktemp("m")), *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_command_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"required: up\|down\|status; see fgvc cluster --help"):
        main([])
