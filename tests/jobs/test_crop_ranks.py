"""Ranks of `fgvc crop`: its own is one process, its detectors get what a cluster gives."""

from pathlib import Path

import pytest
from places import ROOT

from jobs.cli import main
from jobs.config import load
from jobs.crop import Config
from jobs.experiments.crop_detectors import commands_of, train
from jobs.experiments.sequence import Command
from jobs.tasks.crop import run
from shards.errors import TransientError, UserError
from shards.manifest import Manifest


def test_ranks_are_for_its_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="fgvc crop is one process"):
        run(Config(detect="any.yaml"))


def test_on_a_cluster_it_is_one_task_that_holds_what_its_detectors_ranks_get(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["crop", "detect=any.yaml", f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "--dry-run", "--on"]
    assert main([*words, "h100"]) == 2  # now, and not when Slurm starts it
    assert "any.yaml: no such config file" in capsys.readouterr().err
    words[1] = f"detect={ROOT / 'configs/detect/field_guide.yaml'}"
    assert main([*words, "h100", "gpus_per_node=4", "cpus_per_task=3"]) == 0
    script = capsys.readouterr().out
    for line in ("--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=12"):
        assert f"#SBATCH {line}\n" in script
    assert "processes=4" in script
    assert main([*words, "cpu", "tasks_per_node=2", "cpus_per_task=3"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --cpus-per-task=6\n" in script
    assert "export OMP_NUM_THREADS=3\n" in script
    assert main([*words, "h100", "nodes=2"]) == 2
    assert "nodes=2: the runs that this job starts get the ranks of one node" in capsys.readouterr().err
    assert main([*words, "h100", "gpus_per_node=1", "processes=4"]) == 2
    assert "processes=4: on a cluster the runs that this job starts get the ranks that" in capsys.readouterr().err


def test_a_detector_that_crashes_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster the job is started again after a crash, and not after a mistake."""
    detector = Command("fold0", ("no-such-command",), tmp_path / "fold0", tmp_path / "logs/fold0.log")
    with pytest.raises(UserError, match=r"detector fold0: .*no such command") as caught:
        train(Config(detect="any.yaml"), [detector])
    assert caught.value.code == 2
    monkeypatch.setenv("PYTHONMALLOC", "nonsense")  # Python itself dies
    with pytest.raises(TransientError, match="detector fold0: ") as caught:
        train(Config(detect="any.yaml"), [detector])
    assert caught.value.code == 1


def test_configs_of_this_repository_fit_their_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for file in sorted(Path("configs/crop").glob("*.yaml")):
        config = load(Config, file, ["name=not_run_before"])
        assert len(commands_of(config)) == config.folds + 1
