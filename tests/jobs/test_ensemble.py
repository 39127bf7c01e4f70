"""fgvc ensemble: the mean of calibrated probabilities, against every member; runs that do not fit together."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from small_runs import small_run

from fgvc.classification.averaged import mean_probabilities
from fgvc.classification.metrics import Predictions
from jobs.cli import main
from shards.errors import UserError
from shards.manifest import Manifest


@pytest.fixture(scope="module")
def runs(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers of one fold, the first with a temperature of 2; the second measured again; and one of another
    fold."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("one", ["seed=0"]), ("two", ["seed=1"]), ("other", ["data.fold=1", "evaluate_test=false"])):
        assert main(small_run(guide, folder, name, "train.epochs=1", "data.folds=4", *more)) == 0
    weights = folder / "classify/two/model.safetensors"
    words = [f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={folder}", "name=again", "data.workers=0"]
    assert main(["evaluate", *words]) == 0
    result = folder / "classify/one/result.json"
    values = json.loads(result.read_text())
    for split in ("val", "test"):
        values[split]["temperature"] = 2.0
    result.write_text(json.dumps(values))
    return folder


def ensemble(runs: Path, name: str, *words: str) -> int:
    return main(["ensemble", f"runs_dir={runs}", f"name={name}", *words])


def test_the_mean_of_calibrated_probabilities(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert ensemble(runs, "both", "members=[one, two]") == 0
    printed = capsys.readouterr().out
    one, two = (Predictions.load(runs / f"classify/{name}/predictions_test.npz") for name in ("one", "two"))
    mean = (softmax(one.logits, axis=1) + softmax(two.logits, axis=1)) / 2  # as they are: `two` has no temperature
    folder = runs / "ensemble/both"
    found = Predictions.load(folder / "predictions_test.npz")
    assert found.probabilities == pytest.approx(mean, abs=1e-6)
    result = json.loads((folder / "result.json").read_text())
    right = mean.argmax(axis=1) == one.labels
    assert result["test"]["top1"] == right.mean()
    assert result["test"]["temperature"] is None
    assert not result["calibrated"]
    assert "of probabilities as they are" in printed
    for member, row in zip((one, two), result["members"], strict=True):
        assert row["difference"] == pytest.approx(right.mean() - member.correct.mean())
        assert row["low"] <= row["difference"] <= row["high"]
    assert f"over classify/two ({two.correct.mean():.2%})" in printed
    assert (folder / "predictions_test.csv").stat().st_size > 1_000
    stamp = (folder / "result.json").stat().st_mtime_ns
    assert ensemble(runs, "both", "members=[two, one]") == 2
    assert "holds a run of another config: " in capsys.readouterr().err
    assert ensemble(runs, "both", "members=[one, two]") == 0
    assert (folder / "result.json").stat().st_mtime_ns == stamp
    assert ensemble(runs, "again", "members=[one, evaluate/again]") == 0  # the same weights, measured by fgvc evaluate
    again = Predictions.load(runs / "ensemble/again/predictions_test.npz")
    assert again.logits == pytest.approx(found.logits, abs=1e-4)
    assert ensemble(runs, "held-out", "members=[one, two]", "split=val") == 0
    assert json.loads((runs / "ensemble/held-out/result.json").read_text())["val"]["count"] == 20
    second = runs / "classify/two/result.json"
    plain = second.read_text()
    second.write_text(plain.replace('"temperature": null', '"temperature": 0.5'))
    assert ensemble(runs, "calibrated", "members=[one, two]") == 0
    second.write_text(plain)
    mean = (softmax(one.logits / 2.0, axis=1) + softmax(two.logits / 0.5, axis=1)) / 2
    assert Predictions.load(runs / "ensemble/calibrated/predictions_test.npz").probabilities == pytest.approx(mean)
    page = [str(runs / "ensemble/both"), str(runs / "classify/one"), f"runs_dir={runs}", "name=page"]
    assert main(["report", *page]) == 0
    html = (runs / "report/page/report.html").read_text()
    assert "both: the mean of 2 classifiers&#39; probabilities" in html


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["members=[one]"], "members: 1 of them; an ensemble takes two or more"),
        (["members=[one, one]"], "members: one stands there twice"),
        (["members=[one, classify/one]"], "classify/one made the same predictions as one before it"),
        (["members=[one, three]"], "members: three: no such run or folder"),
        (["members=[one, other]"], "classify/other: did not measure split=test; it measured val"),
        (["members=[one, other]", "split=val"], "classify/other: measured other images"),
        (["members=[one, two]", "data.shards=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(runs: Path, capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    assert ensemble(runs, "wrong", *words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert errors[-1].startswith("fgvc ensemble: ")
    assert not (runs / "ensemble/wrong/result.json").exists()


def test_a_class_without_any_chance_is_finite_and_other_classes_are_refused() -> None:
    def sure(classes: int) -> Predictions:
        logits = np.zeros((2, classes), np.float32)
        logits[:, 0] = 500
        return Predictions(logits, np.zeros(2, np.int64), np.arange(2))

    both = mean_probabilities([sure(3), sure(3)], ["a", "b"])
    assert both.logits == pytest.approx(np.array([[0, -500, -500]] * 2))
    with pytest.raises(UserError, match="b: measured other images or classes than a"):
        mean_probabilities([sure(3), sure(4)], ["a", "b"])
