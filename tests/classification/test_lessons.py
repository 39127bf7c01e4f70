"""What training may learn from beside labels: a teacher, attention crops, images that grow; in runs."""

import json
import logging
from pathlib import Path

import pytest
import torch
from defended_run import defended_run
from ranks import finish_all
from safetensors.torch import load_file
from same_run import history, same_end
from small_runs import small_run
from torch import nn

from fgvc.classification.teacher import Resized
from fgvc.models.config import Backbone, ModelConfig
from fgvc.models.export import export, read_about
from fgvc.training.learner import SupervisedLearner
from jobs.cli import main
from jobs.tasks.starts import check_start
from jobs.tasks.teacher import warn_of_other_crops
from shards.errors import UserError
from shards.manifest import Manifest
from shards.reading.config import DataConfig, ImageConfig
from shards.reading.loader import Samples, train_loader
from shards.reading.transforms import train_transforms

CPU, SIDE = torch.device("cpu"), 32


def test_sizes_follow_the_epoch_whatever_step_is_resumed_from(guide: Manifest) -> None:
    transforms = train_transforms(ImageConfig(sizes=[24, 32, 40]), 40, 6)
    samples, indices = Samples(guide, transforms, seed=1), list(guide.split("train"))

    def images(start: int) -> list[torch.Tensor]:
        batches = train_loader(guide, indices, samples, seed=1, batch=20, epochs=6, start_step=start, balance=1.0)
        return [batch.images for batch in batches]

    whole = images(0)
    assert [one.shape[-1] for one in whole] == [24] * 8 + [32] * 8 + [40] * 8
    assert all(torch.equal(*pair) for pair in zip(images(11), whole[11:], strict=True))


LESSONS = [
    "train.mixup=0", "train.attention_crops=true", "image.sizes=[24,32]", "train.deterministic=true",
    "train.checkpoint_minutes=0", "train.epochs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a probe on all of train, at 48 pixels."""
    runs = tmp_path_factory.mktemp("teacher")
    words = ["train.method=probe", "train.mixup=0", "image.size=48", "evaluate_test=false", "data.folds=4"]
    assert main(small_run(guide, runs, "teacher", *words)) == 0
    return runs / "classify/teacher/model.safetensors"


def test_stopped_while_images_grow_it_ends_in_the_same_bits(
    guide: Manifest, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*LESSONS, f"train.teacher={teacher}"]
    assert main(small_run(guide, tmp_path, "calm", *words)) == 0
    real, made = SupervisedLearner.learn, list[int]()

    def stopping(self: SupervisedLearner, batches: list) -> dict:
        if len(made) == 13:
            raise KeyboardInterrupt
        made.append(self.step)
        return real(self, batches)

    monkeypatch.setattr(SupervisedLearner, "learn", stopping)
    assert main(small_run(guide, tmp_path, "stopped", *words)) == 130
    monkeypatch.setattr(SupervisedLearner, "learn", real)
    assert main(small_run(guide, tmp_path, "stopped", *words)) == 0
    same_end(tmp_path / "classify/calm", tmp_path / "classify/stopped", 20)
    result = json.loads((tmp_path / "classify/calm/result.json").read_text())
    assert "teacher" in result["inputs"]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(guide: Manifest, tmp_path: Path) -> None:
    words = [*LESSONS, "train.freeze_bn=statistics", "train.max_steps=12", "optim.lr=0.005", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "one", *words)) == 0
    ways = ("ddp", "fsdp")
    finish_all(
        tmp_path,
        [small_run(guide, tmp_path, way, *words, f"train.strategy={way}", "data.workers=1") for way in ways],
    )
    one, *others = (history(tmp_path / "classify" / name) for name in ("one", *ways))
    for two in others:
        assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=2e-3)


VIT = ["model.name=test_vit", "model.kwargs={img_size: 32, dynamic_img_size: true}", "train.mixup=0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*VIT, "image.sizes=[24,32]"], "image.sizes=24: test_vit does not take it"),
        (["image.sizes=[24,32]", "train.method=probe"], "image.sizes: for a train.method with epochs"),
        (["image.sizes=[16,20,24,28]"], "image.sizes: 4 sizes for train.epochs=3"),
        (["image.eval_crops=5", "image.eval_fit=pad"], "the corners of a padded image are black"),
        (["image.eval_crops=5", "data.crop=padded"], "the corners of a padded image are black"),
        (["image.eval_crops=5", "data.test_crop=padded"], "the corners of a padded image are black"),
        (
            ["image.eval_crops=5", "image.crop_fit=squash", "image.eval_crop=1"],
            "five crops of a squashed image are the",
        ),
        ([*VIT, "train.attention_crops=true"], "train.attention_crops=true: VisionTransformer classifies by one token"),
        (["train.attention_crops=true", "train.mixup=0", "train.strategy=zero3"], "where zero3 has them in parts"),
        (["train.teacher=a.safetensors", "train.method=probe"], "train.teacher: a probe fits labels alone"),
        (["train.teacher=a.safetensors", "defence.method=noise"], "does not go with defence.method=noise"),
        (["train.teacher=a.safetensors"], "train.teacher=a.safetensors: No such file"),
        (["train.attention_crops=true"], "a mixed image has no class to look for"),
        (["train.attention_crops=true", "train.mixup=0", "train.compile=true"], "which train.compile closes"),
    ],
)
def test_mistakes(
    guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(small_run(guide, tmp_path, "wrong", *words)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_teacher_that_knows_the_answers_or_other_classes_is_refused(
    guide: Manifest, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [f"train.teacher={teacher}", "data.folds=4", "data.fold=1", "evaluate_test=false"]
    assert main(small_run(guide, tmp_path, "knows", *words)) == 2
    assert "was trained on 20 of the 48 images that this run keeps out" in capsys.readouterr().err
    others = [
        "field_guide",
        "-",
        str(tmp_path / "three"),
        "species=3",
        "train_per_class=4",
        "test_per_class=2",
        "size=64",
    ]
    assert main(["shards", "build", *others]) == 0
    run = [word for word in small_run(guide, tmp_path, "other", *words[:1]) if not word.startswith("data.shards")]
    assert main([*run, f"data.shards={tmp_path / 'three'}"]) == 2
    assert "its classes are not those of" in capsys.readouterr().err


def without_record(weights: Path, folder: Path) -> Path:
    """The same weights, which do not say what they were trained on."""
    about = read_about(weights)
    del about["trained_on"]
    export(folder / "unknown.safetensors", load_file(weights), about)
    return folder / "unknown.safetensors"


@pytest.mark.parametrize(
    "words", [["train.teacher={}"], ["defence.method=distillation", "defence.teacher={}"]], ids=["lesson", "defence"]
)
def test_a_teacher_must_say_that_it_knows_no_answers(
    guide: Manifest, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture, words: list[str]
) -> None:
    fold = ["data.folds=4", "evaluate_test=false", "image.size=48"]
    unknown = [word.format(without_record(teacher, tmp_path)) for word in words]
    assert main(small_run(guide, tmp_path, "unknown", *unknown, *fold)) == 2
    assert "it was trained on is unknown" in capsys.readouterr().err.strip().splitlines()[-1]
    knows = [word.format(teacher) for word in words]
    assert main(small_run(guide, tmp_path, "knows", *knows, *fold, "data.fold=1")) == 2
    assert "was trained on 20 of the 48 images that this run keeps out" in capsys.readouterr().err


def test_a_defences_teacher_is_in_the_record(guide: Manifest, tmp_path: Path, teacher: Path) -> None:
    words = [f"defence.teacher={teacher}", "image.size=48", "train.epochs=1", "train.max_steps=1"]
    assert main(defended_run(guide, tmp_path, "told", "distillation", *words, "defence.check_steps=1")) == 0
    assert len(read_about(tmp_path / "classify/told/model.safetensors")["trained_on"]) == 2


@pytest.mark.parametrize("key", ["model.weights", "model.also[0].weights"])
def test_weights_to_start_from_that_know_the_answers_are_refused(
    guide: Manifest, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture, key: str
) -> None:
    words = [f"model.weights={teacher}"]
    if key != "model.weights":
        words = ["train.method=probe", "train.mixup=0", f"model.also=[{{name: test_resnet, weights: {teacher}}}]"]
    words += ["evaluate_test=false", "data.folds=4", "data.fold=1"]
    assert main(small_run(guide, tmp_path, "knows", *words)) == 2
    message = f"{key}={teacher}: was trained on 20 of the 48 images that this run keeps out"
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_weights_to_start_from_that_say_nothing_pass(guide: Manifest, tmp_path: Path, teacher: Path) -> None:
    silent = str(without_record(teacher, tmp_path))
    check_start(ModelConfig(weights=silent, also=[Backbone("test_resnet", silent)]), guide, guide.split("train"))
    check_start(ModelConfig(weights=str(teacher)), guide, guide.split("test"))
    with pytest.raises(UserError, match="trained on 60 of the 80 images"):
        check_start(ModelConfig(weights=str(teacher)), guide, guide.split("train"))


def test_a_teacher_of_other_crops_is_said(caplog: pytest.LogCaptureFixture) -> None:
    about = {"crop": "square", "margin": 0.1, "boxes": "truth"}
    with caplog.at_level(logging.WARNING):
        warn_of_other_crops("T", "train.teacher", about, DataConfig(crop="square", test_crop="whole"))
        warn_of_other_crops("T", "train.teacher", about | {"crop": "whole"}, DataConfig(margin=0.3, boxes="L"))
        assert not caplog.records
        warn_of_other_crops("T", "train.teacher", about, DataConfig(crop="square", boxes="L"))
    [record] = caplog.records
    assert record.getMessage() == (
        "train.teacher=T: was measured on other crops (crop=square, margin=0.1, boxes=truth) than those that this run "
        "asks it about (crop=square, margin=0.1, boxes=layer)"
    )


def test_resized_asks_at_the_teachers_size() -> None:
    class Shape(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor(images.shape[-2:])

    assert Resized(Shape(), 20)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).tolist() == [20, 20]
