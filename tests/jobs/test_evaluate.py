"""fgvc evaluate through the command line's main: the same figures, what it refuses, what it marks, calibration."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_runs import small_run

from fgvc.classification.calibration import fit_temperature
from fgvc.classification.metrics import Predictions
from fgvc.models.export import export, read_about
from jobs.cli import main
from jobs.evaluate import Config
from jobs.launch import launch_of, read_profile
from shards.manifest import Manifest


@pytest.fixture(scope="module")
def done(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with a held-out fold."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(small_run(guide, runs, "done", "data.folds=4", "data.fold=1")) == 0
    return runs / "classify/done"


def test_evaluate_agrees_with_training(done: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["evaluate", f"weights={done / 'model.safetensors'}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}"]
    assert main([*words, "name=again"]) == 0
    before = json.loads((done / "result.json").read_text())["test"]
    after = json.loads((tmp_path / "evaluate/again/result.json").read_text())["test"]
    for close in ("nll", "ece"):  # another memory layout sums in another order
        assert after.pop(close) == pytest.approx(before.pop(close), rel=1e-4)
    assert after == before


def evaluate(weights: Path, guide: Manifest, runs: Path, *more: str) -> int:
    return main(["evaluate", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={runs}", *more])


def test_images_seen_in_training_are_refused_or_marked(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = done / "model.safetensors"
    fold = ["split=held_out", "data.folds=4"]
    assert evaluate(weights, guide, tmp_path, *fold, "data.fold=0") == 2
    assert "the weights were trained on 20 of these 20 images; measure others" in capsys.readouterr().err
    assert evaluate(weights, guide, tmp_path, "split=train", "data.per_class=3", "seen=true") == 2
    assert "data.per_class: chooses what is trained on; split=train is measured whole" in capsys.readouterr().err
    assert evaluate(weights, guide, tmp_path, "split=train") == 2
    assert "trained on 60 of these 80 images" in capsys.readouterr().err
    assert evaluate(weights, guide, tmp_path, "split=train", "seen=true") == 0
    assert "SEEN IN TRAINING: 60 of these 80 images" in capsys.readouterr().out
    # Without a name: of the weights' run and the split.
    result = json.loads((tmp_path / "evaluate/done-train/result.json").read_text())
    assert (result["seen"], result["seen_images"]) == (True, 60)
    assert evaluate(weights, guide, tmp_path, *fold, "data.fold=1") == 0
    result = json.loads((tmp_path / "evaluate/done-held_out-f1/result.json").read_text())
    assert (result["seen"], result["seen_images"]) == (False, 0)
    assert "SEEN" not in capsys.readouterr().out
    about = read_about(weights)
    del about["trained_on"]
    save_file(load_file(weights), tmp_path / "old.safetensors", {key: json.dumps(fact) for key, fact in about.items()})
    assert evaluate(tmp_path / "old.safetensors", guide, tmp_path, "split=train") == 0
    assert "is not recorded in the weights file" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluate/old-train/result.json").read_text())["seen"] is None


def test_debug_measures_no_test_split(done: Path, guide: Manifest, tmp_path: Path) -> None:
    assert evaluate(done / "model.safetensors", guide, tmp_path, "--on", "debug") == 0
    result = json.loads((tmp_path / "evaluate/done-train-debug/result.json").read_text())
    assert "test" not in result
    assert (result["train"]["count"], result["seen"]) == (64, True)


def test_a_size_that_the_network_does_not_take_is_one_line(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    vit = ["model.name=test_vit", "image.size=32", "model.kwargs={img_size: 32}", "train.max_steps=1", "train.mixup=0"]
    assert main(small_run(guide, tmp_path, "vit", *vit, "evaluate_test=false")) == 0
    weights = tmp_path / "classify/vit/model.safetensors"
    assert evaluate(weights, guide, tmp_path, "size=40") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert "size=40: test_vit does not take it: Input height (40) should be divisible" in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_an_evaluation_is_named_after_the_weights_run_and_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUN", "runs/classify/dogs")
    for file in ("here/birds.safetensors", "model.safetensors", "runs/classify/cub200_resnet50/model.safetensors"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    fold = ["split=held_out", "data.folds=5", "data.fold=2"]
    for words, folder in (
        (["weights=$RUN/model.safetensors"], "dogs-test"),
        (["weights=$RUN/model.safetensors", *fold], "dogs-held_out-f2"),
        (["weights=here/birds.safetensors", "split=train"], "birds-train"),
        (["weights=cub200_resnet50"], "cub200_resnet50-test"),
        (["weights=$RUN/x.safetensors", "name=a"], "a"),
        (["weights=model.safetensors", "--on", "debug"], "evaluate-train-debug"),
    ):  # fmt: skip
        assert main(["evaluate", *words, "--print-folder"]) == 0
        assert capsys.readouterr().out.strip() == f"runs/evaluate/{folder}"
    profile = read_profile("cpu", [])
    launch, _ = launch_of(profile, "evaluate", Config, None, ["weights=$RUN/model.safetensors"])
    assert launch.folder.name == "dogs-test"


def test_shards_of_other_classes_are_refused_by_the_first_that_differs(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    about = read_about(done / "model.safetensors")
    about["classes"][2] = "stork"
    export(tmp_path / "other.safetensors", load_file(done / "model.safetensors"), about)
    assert evaluate(tmp_path / "other.safetensors", guide, tmp_path) == 2
    found = capsys.readouterr().err
    assert f"trained for 4 classes, {guide.folder} has 4: class 3 is 'stork' there, '{guide.classes[2]}' here" in found
    for damage in ({"size": "large"}, {"mean": None}, {"model": {"name": 3}}, {"temperature": -1}):
        export(tmp_path / "other.safetensors", load_file(done / "model.safetensors"), about | damage)
        assert evaluate(tmp_path / "other.safetensors", guide, tmp_path) == 2
        assert "damaged metadata" in capsys.readouterr().err


def test_outputs_that_are_not_finite_name_an_image(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = load_file(done / "model.safetensors")
    state["fc.bias"][1] = float("nan")
    export(tmp_path / "bad.safetensors", state, read_about(done / "model.safetensors"))
    assert evaluate(tmp_path / "bad.safetensors", guide, tmp_path) == 2
    first = guide.entries[guide.split("test")[0]].key
    assert f"outputs are not finite for 28 of 28 images, first '{first}'" in capsys.readouterr().err
    assert not (tmp_path / "evaluate/bad-test/result.json").exists()


def test_listed_images_are_left_out_beside(done: Path, guide: Manifest, tmp_path: Path) -> None:
    found = Predictions.load(done / "predictions_test.npz")
    wrong = [guide.entries[entry].key for entry in found.entries[~found.correct]]
    (tmp_path / "listed.txt").write_text("\n".join(f"images/{key}.jpg" for key in wrong))
    assert evaluate(done / "model.safetensors", guide, tmp_path, f"exclude={tmp_path / 'listed.txt'}") == 0
    result = json.loads((tmp_path / "evaluate/done-test/result.json").read_text())
    assert result["test"]["top1"] == found.correct.mean() < 1
    rest = result["test"]["without_listed"]
    assert (rest["left_out"], rest["count"], rest["top1"]) == (len(wrong), 28 - len(wrong), 1.0)
    assert {"exclude", "weights"} <= result["inputs"].keys()


def test_a_fold_run_calibrates_the_final_fit(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((done / "result.json").read_text())
    assert before["val"]["temperature"] is before["test"]["temperature"] is None
    words = [f"train.temperature_from={done}", "train.max_steps=3"]
    assert main(small_run(guide, tmp_path, "final", *words)) == 0
    held_out = Predictions.load(done / "predictions_val.npz")
    result = json.loads((tmp_path / "classify/final/result.json").read_text())
    temperature = fit_temperature(held_out.logits, held_out.labels)
    assert result["test"]["temperature"] == pytest.approx(temperature)
    assert f"calibrated {result['test']['ece_calibrated']:.3f}" in capsys.readouterr().out
    assert "temperature_from" in result["inputs"]
    weights = tmp_path / "classify/final/model.safetensors"
    assert evaluate(weights, guide, tmp_path) == 0
    again = json.loads((tmp_path / "evaluate/final-test/result.json").read_text())["test"]
    assert again["ece_calibrated"] == pytest.approx(result["test"]["ece_calibrated"], rel=1e-4)
    capsys.readouterr()
    for folder, message in (
        (tmp_path / "classify/final", "measured no held-out fold"), (tmp_path, "no finished run there"),
    ):  # fmt: skip
        assert main(small_run(guide, tmp_path, "bad", f"train.temperature_from={folder}")) == 2
        assert message in capsys.readouterr().err
    assert main(small_run(guide, tmp_path, "bad", *words, "train.method=probe")) == 2
    assert "a probe calibrates itself" in capsys.readouterr().err
    assert main(small_run(guide, tmp_path, "bad", *words, "model.name=test_efficientnet")) == 2
    assert "a run of other shards or of another model (test_resnet)" in capsys.readouterr().err


def test_evaluate_measures_a_fold_at_another_size(done: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["evaluate", f"weights={done / 'model.safetensors'}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}"]
    fold = ["split=held_out", "data.folds=4", "data.fold=1"]
    before = json.loads((done / "result.json").read_text())["val"]
    for name, more in {"same": [], "larger": ["size=64", "eval_crop=1"], "mirrored": ["flip=true"]}.items():
        assert main([*words, *fold, f"name={name}", *more]) == 0
        one = json.loads((tmp_path / f"evaluate/{name}/result.json").read_text())["held_out"]
        assert one["count"] == 20
        if name == "same":
            assert one["top1"] == before["top1"]
        else:
            assert one["nll"] != pytest.approx(before["nll"], rel=1e-3)
    assert main([*words, "split=held_out", "name=bad"]) == 2


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fit": "pad"}, "crops=5: the corners of a padded image are black"),
        ({"crop": "padded"}, "crops=5: the corners of a padded image are black"),
        ({"fit": "squash", "eval_crop": 1.0}, "crops=5: all five crops of a squashed image are the same"),
    ],
)
def test_five_crops_that_mean_nothing_are_refused_before_anything_is_written(
    done: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, facts: dict, message: str
) -> None:
    weights = tmp_path / "model.safetensors"
    export(weights, load_file(done / "model.safetensors"), read_about(done / "model.safetensors") | facts)
    assert evaluate(weights, guide, tmp_path, "crops=5", "name=five") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "evaluate/five").exists()
