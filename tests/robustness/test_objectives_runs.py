"""Defences through `fgvc classify`: figures, ranks and strategies, a kill, overfitting, mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from defended_run import defended_run
from interruptions import kill_when, steps_done
from ranks import finish_all
from safetensors.torch import load_file
from same_run import history

from fgvc.robustness import watch
from fgvc.robustness.config import DefenceConfig
from fgvc.robustness.watch import OVERFITTED, strengthened, take_back
from fgvc.training.checkpoint import latest_valid, save, step_of
from fgvc.training.rewind import Rewind
from jobs.cli import main
from shards.manifest import Manifest

Start = Callable[..., Popen]


@pytest.fixture(scope="module")
def calm(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of fast training, with mixing and a rising epsilon, read by a worker."""
    runs = tmp_path_factory.mktemp("runs")
    words = defended_run(guide, runs, "calm", "fgsm", "defence.ramp_epochs=2", "data.workers=1")
    assert main(words) == 0
    return runs / "classify/calm"


def test_clean_and_robust_accuracy_are_logged_together(calm: Path) -> None:
    rows = history(calm)
    measured = [row for row in rows if "val_top1" in row]
    assert [row["step"] for row in measured] == [7, 14]
    for row in measured:
        assert 0 <= row["val_robust"] <= row["val_top1"] + 1 / 16
        assert row["train_pgd"] <= row["train_own_attack"] + 1 / 16
        assert row["attack_steps"] == 1
    assert all(0 <= row["robust_top1"] <= 1 for row in rows)
    figures = json.loads((calm / "result.json").read_text())["defence"]
    assert figures["val_robust"] == measured[-1]["val_robust"]
    assert figures["method"] == "fgsm"
    assert not (calm / "checkpoints").exists()


def test_a_killed_run_ends_in_the_same_bits(guide: Manifest, fgvc: Start, tmp_path: Path, calm: Path) -> None:
    words = defended_run(guide, tmp_path, "killed", "fgsm", "defence.ramp_epochs=2", "train.checkpoint_minutes=0")
    process = fgvc(*words)
    kill_when(process, lambda: steps_done(tmp_path / "classify/killed") >= 10)
    assert main(words) == 0
    left, right = (load_file(run / "model.safetensors") for run in (calm, tmp_path / "classify/killed"))
    assert [name for name in left if not left[name].equal(right[name])] == []
    assert history(calm) == history(tmp_path / "classify/killed")


def test_overfitting_is_said_and_training_begins_again_with_more_steps(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every gap counts as one here, so that attacks of 1 and of 2 steps are given up, and of 4 (all that is checked
    with) not."""
    monkeypatch.setattr(watch, "GAP", -1.0)
    assert main(defended_run(guide, tmp_path, "over", "fgsm", "train.epochs=1")) == 0
    folder = tmp_path / "classify/over"
    rewinds = json.loads((folder / "result.json").read_text())["rewinds"]
    assert [rewind["step"] for rewind in rewinds] == [0, 0]
    for rewind, steps in zip(rewinds, (1, 2), strict=True):
        assert rewind["reason"].startswith(OVERFITTED)
        assert f"withstand its {steps} step(s)" in rewind["reason"]
    rows = history(folder)
    assert [row["rewind"] for row in rows if "rewind" in row] == [rewind["reason"] for rewind in rewinds]
    assert "attack_steps" not in rows[-1]
    assert OVERFITTED in capsys.readouterr().out


SHORT = ["train.freeze_bn=statistics", "train.max_steps=4", "optim.lr=0.005"]


@pytest.fixture(scope="module")
def one_rank(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """method -> the metrics of four steps by one process."""
    runs = tmp_path_factory.mktemp("one")
    for method in ("pgd", "trades"):
        assert main(defended_run(guide, runs, method, method, *SHORT)) == 0
    return {method: history(runs / "classify" / method) for method in ("pgd", "trades")}


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(guide: Manifest, tmp_path: Path, one_rank: dict[str, list[dict]]) -> None:
    """Under every strategy."""
    ways = [("pgd", "ddp"), *(("trades", strategy) for strategy in ("ddp", "fsdp", "zero2", "zero3"))]
    finish_all(
        tmp_path,
        [defended_run(guide, tmp_path, "-".join(way), way[0], *SHORT, f"train.strategy={way[1]}") for way in ways],
    )
    for method, strategy in ways:
        two = history(tmp_path / f"classify/{method}-{strategy}")
        losses = [row["loss"] for row in two]
        assert [row["loss"] for row in one_rank[method]] == pytest.approx(losses, rel=2e-3), strategy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defence.method=pgd", "defence.epsilon=8"], "did you mean 8/255?"),
        (["defence.method=fgsm", "defence.epsilon=zero"], "expected a number or a fraction"),
        (["defence.method=fgms"], "did you mean 'fgsm'?"),
        (["defence.method=pgd", "train.method=probe"], "a probe trains a linear head alone"),
        (["defence.method=trades", "train.precision=fp16"], "gradients by pixels vanish in fp16"),
        (["defence.teacher=a.safetensors"], "only defence.method=distillation has one"),
    ],
)
def test_mistakes(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(defended_run(guide, tmp_path, "wrong", "none", *words)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_attack_that_was_overfitted_to_gets_twice_the_steps() -> None:
    fast = DefenceConfig("fgsm", step=1.5)
    once = [Rewind(f"{OVERFITTED}: ...", 7, 0.5)]
    assert strengthened(fast, []) == fast
    assert strengthened(fast, [Rewind("the loss is nan", 7, 0.5)]) == fast
    assert strengthened(fast, once) == DefenceConfig("pgd", steps=2)
    assert strengthened(fast, once * 2) == DefenceConfig("pgd", steps=4)
    assert strengthened(DefenceConfig("pgd", steps=3), once).steps == 6


@pytest.mark.parametrize("good_step", [3, 5, None])
def test_going_back_leaves_the_good_checkpoint_as_the_newest(tmp_path: Path, good_step: int | None) -> None:
    for step in (5, 8, 9):
        save(tmp_path, step, {"rank-0": {"step": step}}, keep=5)
    if good_step is not None:
        save(tmp_path / "good", good_step, {"rank-0": {"step": good_step}}, keep=1)
    take_back(tmp_path, tmp_path / "good")
    found = latest_valid(tmp_path)
    assert (None if found is None else step_of(found)) == good_step
