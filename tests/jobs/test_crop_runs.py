"""Classification on crops, through the command line's main: policies, two views, evaluation, layers that do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_run

from fgvc.classification.metrics import Predictions
from jobs.cli import main
from shards.boxes_layer import write_layer
from shards.manifest import Manifest


@pytest.fixture(scope="module")
def layer(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A boxes layer that stands in for a detector's: the truth moved by up to 4 pixels, nothing found in two images."""
    random = np.random.default_rng(0)
    found = {}
    for entry in guide.entries:
        x0, y0, x1, y1 = np.array(entry.boxes[0]) + random.uniform(-4, 4, 4)
        found[entry.key] = [(x0, y0, max(x0 + 2, x1), max(y0 + 2, y1), random.uniform(0.3, 1))]
    missed = [guide.entries[guide.split("train")[0]].key, guide.entries[guide.split("test")[0]].key]
    path = tmp_path_factory.mktemp("layer") / "boxes.jsonl"
    write_layer(path, guide, found | {key: [] for key in missed}, {"job": "test"})
    return path


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("crop", ["whole", "padded", "whole+box"])
def test_probe_takes_every_policy(guide: Manifest, layer: Path, tmp_path: Path, crop: str) -> None:
    words = ["train.method=probe", f"data.crop={crop}", f"data.boxes={layer}", "data.folds=4"]
    assert main(small_run(guide, tmp_path, "run", *words)) == 0
    result = result_of(tmp_path / "classify/run")
    if crop == "whole":
        assert "crops" not in result
        assert "boxes" not in result["inputs"]
    else:
        without = {split: one["without_box"] for split, one in result["crops"].items()}
        assert without["train"] + without["val"] == 1
        assert without["test"] == 1
        assert {split: one["images"] for split, one in result["crops"].items()} == {"train": 60, "val": 20, "test": 28}
        assert result["inputs"]["boxes"] == result["inputs"]["test_boxes"] != "truth"


def test_two_views_are_the_mean_of_logits_and_evaluate_gives_them_again(
    guide: Manifest, layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    policy = [
        "data.crop=whole+square", "data.margin=0.2", f"data.boxes={layer}", "data.min_score=0.5",
        "image.crop_fit=squash",
    ]  # fmt: skip
    assert main(small_run(guide, tmp_path, "two", *policy, "train.epochs=1")) == 0
    assert "fgvc attack" not in capsys.readouterr().out  # it refuses two views
    weights = tmp_path / "classify/two/model.safetensors"
    before = result_of(tmp_path / "classify/two")
    assert before["crops"]["test"]["without_box"] > 1  # some scores are below 0.5

    def evaluate(name: str, *words: str) -> int:
        given = [f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}", f"name={name}"]
        return main(["evaluate", *given, *words])

    assert evaluate("refused") == 2
    assert "give data.boxes=FILE" in capsys.readouterr().err
    assert evaluate("again", f"data.boxes={layer}") == 0
    assert "fgvc attack" not in capsys.readouterr().out
    again = result_of(tmp_path / "evaluate/again")
    assert again["views"] == before["views"] == 2
    assert again["test"]["top1"] == before["test"]["top1"]
    assert again["crops"]["test"] == before["crops"]["test"]
    assert evaluate("truth", "data.test_boxes=truth") == 0
    assert result_of(tmp_path / "evaluate/truth")["crops"]["test"]["without_box"] == 0

    def logits(crop: str, fit: str) -> np.ndarray:
        same = [*policy[:-1], f"image.eval_fit={fit}", f"data.test_crop={crop}", "train.epochs=1"]
        assert main(small_run(guide, tmp_path, crop, *same)) == 0
        return Predictions.load(tmp_path / f"classify/{crop}/predictions_test.npz").logits

    both = Predictions.load(tmp_path / "classify/two/predictions_test.npz").logits
    assert both == pytest.approx((logits("whole", "center_crop") + logits("square", "squash")) / 2, abs=1e-5)


def test_another_layer_is_another_run_and_what_does_not_fit_is_one_line(
    guide: Manifest, layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine = tmp_path / "mine.jsonl"
    shutil.copy(layer, mine)
    words = small_run(guide, tmp_path, "run", "train.method=probe", "data.crop=box", f"data.boxes={mine}")
    assert main(words) == 0
    assert main([*words[:-1], f"data.boxes={layer}"]) == 0  # the same boxes in another place
    capsys.readouterr()
    write_layer(mine, guide, {entry.key: [(*entry.boxes[0], 0.9)] for entry in guide.entries}, {})
    assert main(words) == 2
    assert "holds a run of another config: inputs.boxes" in capsys.readouterr().err
    write_layer(mine, guide, {entry.key: [] for entry in guide.entries[:50]}, {})
    for i, (more, message) in enumerate(
        (
            ([], "does not list"),
            (["data.boxes=nowhere.jsonl"], "data.boxes=nowhere.jsonl: no such file; fgvc crop makes a boxes layer"),
            (["data.test_boxes=nowhere.jsonl"], "data.test_boxes=nowhere.jsonl: no such file"),
            ([f"data.boxes={guide.folder / 'manifest.json'}"], "this version reads 'fgvc-boxes 1'"),
            (["data.test_crop=tight"], "data.test_crop='tight'"),
            (["data.min_score=2"], "data.min_score=2"),
        )
    ):
        assert main([*words, f"name=bad{i}", *more]) == 2, message
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
        assert error.startswith("fgvc classify: ")


def test_nothing_found_anywhere_is_counted_and_equals_the_whole_image(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    empty = tmp_path / "empty.jsonl"
    write_layer(empty, guide, {entry.key: [] for entry in guide.entries}, {})
    assert main(small_run(guide, tmp_path, "none", "train.epochs=1", "data.crop=square", f"data.boxes={empty}")) == 0
    assert "kept whole for lack of a box: train 80, test 28" in capsys.readouterr().out
    assert main(small_run(guide, tmp_path, "whole", "train.epochs=1")) == 0
    logits = [Predictions.load(tmp_path / f"classify/{name}/predictions_test.npz").logits for name in ("none", "whole")]
    assert np.array_equal(*logits)
