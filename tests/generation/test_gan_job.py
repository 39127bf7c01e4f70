"""fgvc gan: killed in either phase, resumed exactly, on two ranks, in bf16; what it measures and what it refuses."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from gan_runs import gan_words, result_of
from places import HELPERS
from ranks import run_ranks
from safetensors.torch import load_file
from same_run import history
from shown import shown

from fgvc.classification.seen import training_record
from fgvc.generation.game import Game
from fgvc.generation.record import read_generator
from fgvc.models.export import export
from jobs.cli import main
from jobs.states import read
from jobs.tasks import gan_measure
from shards.manifest import Manifest
from shards.reading.config import DataConfig
from shards.reading.splits import open_splits


@pytest.fixture(scope="module")
def calm(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    runs = tmp_path_factory.mktemp("calm")
    assert main(gan_words(guide, runs, "calm", "measure.every=1", "data.folds=4", "data.fold=0")) == 0
    return runs / "gan" / "calm"


def test_what_a_run_leaves(calm: Path, guide: Manifest) -> None:
    result = result_of(calm)
    assert set(result["train"]) >= {
        "frechet",
        "kid",
        "precision",
        "recall",
        "frechet_half",
        "floor",
        "memorised",
        "count",
        "title",
    }
    assert result["train"]["title"] == "FD (lite0 features)"
    assert result["train"]["count"] == 40
    assert result["val"]["count"] == 20, "the held-out fold"
    rows = [json.loads(line) for line in (calm / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_frechet"] == pytest.approx(result["val"]["frechet"], rel=1e-5)
    assert {"loss_generator", "loss_discriminator", "diversity_generator", "real_discriminator"} <= rows[0].keys()
    pictures = ("grid.png", "grid-00001.png", "grid-00002.png", "interpolations.png", "nearest.png", "training.png")
    assert all((calm / name).stat().st_size > 500 for name in pictures)
    network, model, about = read_generator(calm / "model.safetensors")
    assert about["classes"] == list(guide.classes)
    assert about["trained_on"][0]["folds"] == 4
    assert (model.name, model.size) == ("dcgan", 32)
    assert network(torch.randn(2, 8), torch.tensor([0, 3])).shape == (2, 3, 32, 32)
    assert not (calm / "features").exists()


def test_the_test_split_is_measured_once_at_the_end(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the last epoch's measuring has made is not made again."""
    made, real = list[tuple[str, int]](), gan_measure.generated_features

    def counted(folder: Path, network: Any, *rest: Any, **more: Any) -> Any:
        handle = network.register_forward_pre_hook(lambda *_: made.append((more["title"], int(folder.name[-1]))))
        found = real(folder, network, *rest, **more)
        handle.remove()
        return found

    monkeypatch.setattr(gan_measure, "generated_features", counted)
    words = ["measure.every=1", "measure.images=8", "train.max_steps=9", "measure.pictures=0", "evaluate_test=true"]
    assert main(gan_words(guide, tmp_path, "tested", *words)) == 0
    assert made == [("train", 5), ("train", 9), ("test", 9)]
    rows = [json.loads(line) for line in (tmp_path / "gan/tested/metrics.jsonl").read_text().splitlines()]
    assert "train_frechet" in rows[4]
    assert not any(key.startswith("test") for row in rows for key in row)
    assert result_of(tmp_path / "gan/tested")["test"]["count"] == 8


def test_a_measuring_network_that_is_not_there_is_found_before_training(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The run's name stays free for the corrected command."""
    words = gan_words(guide, tmp_path, "free", "measure.images=8", "train.max_steps=1", "measure.pictures=0")
    assert main([*words, "measure.features=efficientnet_lite00"]) == 2
    assert "efficientnet_lite00" in capsys.readouterr().err
    assert not (tmp_path / "gan/free/metrics.jsonl").exists()
    assert main(words) == 0


def test_what_the_backbone_was_trained_on_is_recorded_and_may_not_be_held_out(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lite0, folder = "tf_efficientnet_lite0", str(guide.folder)
    record = training_record(guide, DataConfig(shards=folder, folds=4, fold=1), fold_of(guide, 1))
    backbone = tmp_path / "backbone.safetensors"
    state = timm.create_model(lite0, num_classes=4).state_dict()
    export(backbone, state, {"classes": list(guide.classes), "trained_on": [record]})
    more = ["model.name=projected", f"model.backbone={lite0}", f"model.backbone_weights={backbone}", "data.folds=4"]
    more += ["train.max_steps=1", "train.batch=4", "measure.images=8", "measure.pictures=0"]
    assert main([*gan_words(guide, tmp_path, "leaky", *more), "data.fold=0"]) == 2
    assert "model.backbone_weights=" in (error := capsys.readouterr().err)
    assert "was trained on 20 of the " in error
    assert main([*gan_words(guide, tmp_path, "clean", *more), "data.fold=1"]) == 0
    _, _, about = read_generator(tmp_path / "gan/clean/model.safetensors")
    assert about["trained_on"] == [record, record]


def fold_of(manifest: Manifest, fold: int) -> list[int]:
    """The training images of four folds' run that holds one out."""
    return open_splits(manifest, DataConfig(folds=4, fold=fold)).train


def test_the_report_shows_it(calm: Path) -> None:
    assert shown(calm)["Generated against real images"] == [
        "run", "against", "images", "FD", "FD, half", "floor", "KID", "precision", "recall", "copies",
        "copies, real", "features",
    ]  # fmt: skip


def test_status_shows_the_distance_as_a_number(calm: Path) -> None:
    from jobs.status import _figures

    result = result_of(calm)
    shown = _figures(read(calm))
    assert shown == f"train FD {result['train']['frechet']:.1f}, val FD {result['val']['frechet']:.1f}"


@pytest.mark.parametrize(
    ("ranks", "kill", "more"),
    [
        (1, "discriminator:7", ()),
        pytest.param(
            2, "generator:7", ("train.precision=bf16", "data.workers=1", "train.r1=1"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_kill_in_either_phase_changes_no_bit(
    guide: Manifest, tmp_path: Path, ranks: int, kill: str, more: tuple[str, ...]
) -> None:
    """The killed run is left with the checkpoint of step 5, the end of the first epoch, or a later one."""
    for name, kills in (("calm", [""]), ("killed", [kill, ""])):
        for phase in kills:
            small = ("measure.images=8", "measure.pictures=0", "train.penalty_every=2")
            words = gan_words(guide, tmp_path, name, *small, *more)
            if ranks == 1 and not phase:
                assert main(words) == 0
                continue
            codes = run_ranks(tmp_path, [str(HELPERS / "deadly_gan.py"), phase, *words], ranks, seconds=1500)
            assert codes == [-signal.SIGKILL if phase else 0] * ranks
    runs = [tmp_path / "gan" / name for name in ("calm", "killed")]
    left, right = (load_file(run / "model.safetensors") for run in runs)
    assert [key for key in left if not left[key].equal(right[key])] == []
    assert history(runs[0]) == history(runs[1])
    assert [row["step"] for row in history(runs[1])] == list(range(1, 11))
    assert result_of(runs[0])["train"] == result_of(runs[1])["train"]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(guide: Manifest, tmp_path: Path) -> None:
    """BatchNorm sees the images of both ranks, draws are the samples' own."""
    for ranks in (1, 2):
        words = gan_words(guide, tmp_path, f"on{ranks}", "generator.lr=0.0001", "discriminator.lr=0.0001")
        assert run_ranks(tmp_path, [str(HELPERS / "deadly_gan.py"), "", *words], ranks) == [0] * ranks
    one, two = (history(tmp_path / "gan" / f"on{ranks}") for ranks in (1, 2))
    for left, right in zip(one, two, strict=True):
        assert left["loss_discriminator"] == pytest.approx(right["loss_discriminator"], rel=2e-3)
        assert left["loss_generator"] == pytest.approx(right["loss_generator"], rel=2e-3)
    figures = [result_of(tmp_path / "gan" / f"on{ranks}")["train"] for ranks in (1, 2)]
    assert figures[0]["frechet"] == pytest.approx(figures[1]["frechet"], rel=0.05)


def test_a_step_that_is_not_a_number_costs_an_epoch_at_most(
    guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both players go back and are both slower from there on."""
    real, calls = Game.generator, []

    def broken(self: Game, models: Any, batch: Any) -> Any:
        loss, figures = real(self, models, batch)
        calls.append(1)
        return (loss * math.nan if len(calls) == 8 else loss), figures

    monkeypatch.setattr(Game, "generator", broken)
    assert main(gan_words(guide, tmp_path, "broken", "train.checkpoint_minutes=5")) == 0
    rows = [json.loads(line) for line in (tmp_path / "gan/broken/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]
    assert rows[5]["rewind"] == "loss_generator is nan at step 8"
    assert [row["lr"] for row in rows if "lr" in row] == [2e-4] * 5 + [1e-4] * 5
    assert result_of(tmp_path / "gan/broken")["rewinds"][0]["lr_scale"] == 0.5


def test_a_collapse_ends_the_run_and_says_so(guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Rates that are far too high, and images that are all one colour."""
    words = gan_words(guide, tmp_path, "lost", "train.collapse_steps=4", "generator.lr=1e-9", "train.epochs=4")
    assert main(words) == 2
    assert "generated images were all alike for 4 steps: they differ by" in capsys.readouterr().err
    again = gan_words(guide, tmp_path, "lost-soon", "train.collapse_steps=500", "generator.lr=1e-9", "train.epochs=4")
    assert main([*again, "measure.images=8"]) == 2
    assert "for 6 steps" in capsys.readouterr().err, "a third of the run's 20"
    assert main([*words, "train.collapse_steps=0"]) == 0


Words = Callable[[Manifest], list[str]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=species"], "only=species: no such class"),
        (["only=CLASS0", "data.limit=20", "train.batch=16"], "train.batch=16 is more than the "),
        (["only=CLASS0", "data.limit=4", "train.batch=1"], "1 image(s) of split train to compare with"),
        (["measure.images=2"], "2 image(s) of split train to compare with: precision and recall need more than 3"),
        (["model.std=[0.5, 0.5, 0]"], "std above 0"),
        (["train.unconditional_epochs=1", "train.ramp_epochs=2"], "classes would never be known"),
        (["train.grad_checkpointing=true"], "train.grad_checkpointing=true: the networks of GANs have none"),
        (["data.crop=whole+box"], "one view of an image"),
        (["train.strategy=zero1"], "train.strategy=zero1 to zero3 train one network"),
        (["measure.features=inception", "measure.weights=LITE0"], "not readable as tensors"),
    ],
)
def test_mistakes_are_named(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    words: list[str], message: str,
) -> None:  # fmt: skip
    if "strategy" in words[0]:
        monkeypatch.setenv("WORLD_SIZE", "2")
    base = gan_words(guide, tmp_path, "wrong")
    lite0 = next(word for word in base if word.startswith("measure.weights=")).partition("=")[2]
    given = [word.replace("CLASS0", guide.classes[0]).replace("LITE0", lite0) for word in words]
    assert main([*base, *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_images_of_unequal_sizes_are_trained_on(birds: Manifest, tmp_path: Path) -> None:
    """Real birds of one class, of every shape, cut out as squares."""
    words = gan_words(birds, tmp_path, "real", f"only={birds.classes[3]}", "data.crop=square", "train.max_steps=2")
    assert main([*words, "train.batch=8", "measure.images=8"]) == 0
    assert result_of(tmp_path / "gan/real")["train_count"] < 60
