"""What status, sweeps, comparisons and clusters make of a job whose figure is a distance, and of a run a class."""

import json
from pathlib import Path

import pytest
import yaml
from places import ROOT

from jobs.cli import main
from jobs.experiments.sweep_file import read_sweep
from jobs.experiments.trials import score_of
from jobs.gan import HEADLINE, Config, parts
from jobs.headline import Headline
from shards.manifest import Manifest


def test_a_headline_is_written_in_its_own_form() -> None:
    assert HEADLINE.line({"train": {"frechet": 123.456}, "val": {"frechet": 7}}) == "train FD 123.5, val FD 7.0"
    assert Headline("top1", "top-1").line({"test": {"top1": 0.5}}) == "test top-1 50.00%"


def test_a_sweep_minimizes_the_distance_on_the_held_out_fold(tmp_path: Path) -> None:
    command = ["fgvc", "gan", str(ROOT / "configs/gan/field_guide.yaml"), "data.folds=5", "${args_no_hyphens}"]
    values = {
        "command": command, "method": "random", "run_cap": 2,
        "parameters": {"generator.lr": {"values": [1e-4, 1e-3]}, "train.loss": {"values": ["hinge", "softplus"]}},
    }  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(values))
    metric = read_sweep(file, []).metric
    assert (metric.name, metric.goal) == ("val_frechet", "minimize")
    scores = []
    for number, distance in enumerate((30.0, 20.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"val": {"frechet": distance}}))
        scores.append(score_of(folder, metric))
    assert scores[1] is not None
    assert scores[0] is not None
    assert scores[1] > scores[0], "the smaller distance is the better trial"


def test_a_comparison_of_sets_of_images_is_refused(capsys: pytest.CaptureFixture) -> None:
    row = str(ROOT / "configs/gan/field_guide.yaml")
    assert main(["compare", row, row, "job=gan", "name=x", "--dry-run"]) == 2
    assert "job=gan: cannot be compared: intervals pair images" in capsys.readouterr().err


def test_per_class_is_an_array_of_runs_of_one_class_each(
    guide: Manifest, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    config = Config(name="birds", per_class=True)
    config.data.shards = str(guide.folder)
    words = parts(config)
    assert [row[0] for row in words] == [f"only={name}" for name in guide.classes]
    assert [row[1].startswith(f"name=birds-{number:03d}-") for number, row in enumerate(words)] == [True] * 4
    config.only = guide.classes[0]
    assert parts(config) == [], "a run of one class stands for itself"
    command = ["gan", "name=birds", f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "per_class=true"]
    assert main([*command, "--on", "cpu", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-3" in script
    assert main([*command, "data.shards=", "--on", "cpu", "--dry-run"]) == 2
    assert "data.shards is not set" in capsys.readouterr().err
