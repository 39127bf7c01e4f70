"""fgvc synthesize, and training with what it makes: the same bytes whatever happens, filters, and no leak."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gan_runs import gan_words, result_of
from interruptions import finish, kill_when
from places import weights_file
from same_run import history
from small_runs import small_run

from fgvc.generation.config import GanModelConfig
from fgvc.generation.networks.create import create_generator
from fgvc.generation.record import read_generator, write_generator
from fgvc.generation.synthesis import Candidates, choose
from jobs.cli import main
from shards.manifest import Manifest, read_manifest

Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def generator(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on four of five folds; fold 0 is held out."""
    runs = tmp_path_factory.mktemp("generator")
    assert main(gan_words(guide, runs, "fold0", "data.folds=5", "data.fold=0")) == 0
    return runs / "gan/fold0/model.safetensors"


def words(guide: Manifest, weights: Path, folder: Path, name: str, *more: str) -> list[str]:
    lite0 = weights_file("tf_efficientnet_lite0.safetensors")
    return [
        "synthesize", f"name={name}", f"runs_dir={folder}", f"weights={weights}", f"data.shards={guide.folder}",
        "data.workers=0", f"out={folder / name}", "per_class=6", f"measure.weights={lite0}", "measure.size=32",
        "measure.batch=8", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def synthetic(guide: Manifest, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    assert main(words(guide, generator, folder, "calm", "copies=true")) == 0
    return folder


def test_what_is_made(synthetic: Path, guide: Manifest) -> None:
    made = read_manifest(synthetic / "calm")
    assert made.classes == guide.classes
    assert Counter(entry.label for entry in made.entries) == dict.fromkeys(range(4), 6)
    assert {entry.origin for entry in made.entries} == {"gan:fold0"}
    assert {(entry.width, entry.height, entry.split) for entry in made.entries} == {(32, 32, "train")}
    (record,) = made.extra["trained_on"]
    assert (record["shards"], record["folds"], record["fold"]) == (guide.fingerprint, 5, 0)
    result = result_of(synthetic / "synthesize/calm")["synthetic"]
    assert result["count"] == 24
    assert result["too_few"] == {}
    assert (synthetic / "synthesize/calm/sheet.png").is_file()
    assert not (synthetic / "synthesize/calm/candidates").exists()


@pytest.mark.slow
def test_a_kill_and_two_ranks_make_the_same_bytes(
    synthetic: Path, generator: Path, guide: Manifest, fgvc: Start, tmp_path: Path
) -> None:
    run = words(guide, generator, tmp_path, "killed", "copies=true")
    candidates = tmp_path / "synthesize/killed/candidates"
    kill_when(fgvc(*run), lambda: len(list(candidates.glob("*.npz"))) > 1)
    finish(fgvc(*run, "--processes", "2"))
    fingerprints = [read_manifest(folder).fingerprint for folder in (synthetic / "calm", tmp_path / "killed")]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.slow
def test_truncation_seed_and_class_change_the_images(
    synthetic: Path, generator: Path, guide: Manifest, tmp_path: Path
) -> None:
    made = {read_manifest(synthetic / "calm").fingerprint}
    for name, more in (("seed", "seed=1"), ("truncated", "truncation=0.3")):
        assert main(words(guide, generator, tmp_path, name, "copies=true", more)) == 0
        made.add(read_manifest(tmp_path / name).fingerprint)
    assert len(made) == 3


def test_candidates_are_kept_in_order_until_a_class_is_full() -> None:
    label = np.repeat([0, 1], 5)
    confidence = np.array([0.9, 0.2, 0.8, 0.7, 0.9, 0.1, 0.9, 0.3, 0.9, 0.2])
    copy = np.array([False, False, True, False, False, False, True, False, False, False])
    found = Candidates(label, np.zeros(10, "S1"), confidence, copy)
    chosen = choose(found, 2, 0.5, keep_copies=False)
    assert chosen.places == [0, 3, 8]
    assert (chosen.looked_at, chosen.unsure, chosen.copies) == (9, 4, 2)
    assert choose(found, 2, 0.0, keep_copies=True).places == [0, 1, 5, 6]


def test_a_classifier_drops_what_it_is_not_sure_of_and_its_training_images_are_named_too(
    generator: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(small_run(guide, tmp_path, "judge", "data.folds=5", "data.fold=1", "evaluate_test=false")) == 0
    judge = f"classifier={tmp_path / 'classify/judge/model.safetensors'}"
    run = words(guide, generator, tmp_path, "judged", "copies=true", judge, "min_confidence=0.3", "candidates=4")
    assert main(run) == 0
    found = result_of(tmp_path / "synthesize/judged")["synthetic"]
    assert found["unsure"] > 0
    assert [record["fold"] for record in read_manifest(tmp_path / "judged").extra["trained_on"]] == [0, 1]
    capsys.readouterr()
    assert main([*run[:1], "name=strict", *run[2:], f"out={tmp_path / 'strict'}", "min_confidence=1"]) == 2
    assert "candidates were dropped" in capsys.readouterr().err


FOLD0 = ["data.folds=5", "data.fold=0", "evaluate_test=false"]


@pytest.mark.slow
def test_a_run_trains_with_them_and_resumes_exactly(
    synthetic: Path, guide: Manifest, fgvc: Start, tmp_path: Path
) -> None:
    run = [*FOLD0, f"synthetic.shards={synthetic / 'calm'}", "train.deterministic=true", "train.checkpoint_minutes=0"]
    for name in ("calm", "killed"):
        process = fgvc(*small_run(guide, tmp_path, name, *run, "data.workers=1"), "--processes", "2")
        folder = tmp_path / "classify" / name
        if name == "killed":
            kill_when(process, lambda folder=folder: any((folder / "checkpoints").glob("step-*12")))
            process = fgvc(*small_run(guide, tmp_path, name, *run, "data.workers=1"), "--processes", "2")
        finish(process)
    rows = history(tmp_path / "classify/calm")
    assert rows == history(tmp_path / "classify/killed")
    assert main(small_run(guide, tmp_path, "without", *FOLD0, "train.deterministic=true")) == 0
    plain = history(tmp_path / "classify/without")
    assert len(rows) == len(plain), "as many steps"
    assert [row["loss"] for row in rows] != [row["loss"] for row in plain]


def test_images_made_from_what_a_run_holds_out_are_refused(
    synthetic: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shards = f"synthetic.shards={synthetic / 'calm'}"

    def refused(name: str, *more: str) -> str:
        assert main(small_run(guide, tmp_path, name, shards, *more)) == 2
        return capsys.readouterr().err

    assert "made from 16 of the 44 images that this run holds out" in refused(
        "fold1", "data.folds=5", "data.fold=1", "evaluate_test=false"
    )
    assert "holds out" in refused("share", "data.holdout=0.2")
    shutil.copytree(synthetic / "calm", tmp_path / "stranger")
    document = json.loads((tmp_path / "stranger/manifest.json").read_text())
    for extra, message in (({}, "is unknown"), ({"trained_on": [{"shards": "of others"}]}, "is unknown")):
        (tmp_path / "stranger/manifest.json").write_text(json.dumps(document | {"extra": extra}))
        assert main(small_run(guide, tmp_path, "s", f"synthetic.shards={tmp_path / 'stranger'}", *FOLD0)) == 2
        assert message in capsys.readouterr().err
    assert main(small_run(guide, tmp_path, "real", f"synthetic.shards={guide.folder}", *FOLD0)) == 2
    assert "108 real images; give what fgvc synthesize made" in capsys.readouterr().err
    assert "a probe reads every real image once" in refused("probe", "train.method=probe", *FOLD0)


def test_a_classifier_that_trained_with_them_has_seen_what_the_generator_saw(
    synthetic: Path, guide: Manifest, tmp_path: Path
) -> None:
    from fgvc.models.export import read_about

    run = small_run(guide, tmp_path, "with", f"synthetic.shards={synthetic / 'calm'}", *FOLD0, "train.max_steps=2")
    assert main(run) == 0
    records = read_about(tmp_path / "classify/with/model.safetensors")["trained_on"]
    assert len(records) == 2
    assert records[0] == records[1], "the same images"


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        ("LITE0", (), "holds something else, no generator"),
        ("nowhere-*.safetensors", (), "no such file"),
        ("GENERATOR", ("data.shards=OTHER",), "not what weights="),
        ("UNCONDITIONAL", (), "makes images of 4 classes without knowing of which"),
        ("PROJECTED", ("truncation=0.7",), "truncation=0.7: model.name=projected brings every latent to one length"),
    ],
)
def test_mistakes_are_named(
    guide: Manifest, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture, weights: str,
    more: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    from jobs.shards import build_from

    if "data.shards=OTHER" in more:
        build_from(
            "field_guide", "-", tmp_path / "other", ["species=4", "train_per_class=2", "test_per_class=1", "seed=5"]
        )
    given = [word.replace("OTHER", str(tmp_path / "other")) for word in more]
    lite0 = str(weights_file("tf_efficientnet_lite0.safetensors"))
    path = weights.replace("LITE0", lite0).replace("GENERATOR", str(generator))
    others = {"UNCONDITIONAL": GanModelConfig("dcgan", 32, 8, 8, conditional=False)}
    others |= {"PROJECTED": GanModelConfig("projected", 32, 8, 8)}
    if weights in others:
        model, (_, _, about) = others[weights], read_generator(generator)
        facts = {key: value for key, value in about.items() if key != "generator"}
        path = str(tmp_path / "other.safetensors")
        write_generator(Path(path), create_generator(model, len(guide.classes)), model, facts)
    assert main(words(guide, Path(path), tmp_path, "wrong", *given)) == 2
    assert message in capsys.readouterr().err
