"""fgvc attack by its command line: the same figures for any ranks, workers and kills; comparisons, sweeps, mistakes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from interruptions import kill_when
from safetensors.torch import load_file
from shown import shown
from small_runs import small_run

from fgvc.models.export import export, read_about
from fgvc.study.headline import read_headline
from jobs.cli import main
from shards.manifest import Manifest

QUICK = [
    "steps=4", "epsilon=8/255", "batch=4", "check_images=6", "check_queries=20", "autoattack.steps=4",
    "autoattack.targets=2", "autoattack.queries=20", "track.wandb=disabled", "data.workers=0",
]  # fmt: skip
PGD_ONLY = ["attacks=[pgd]", "curve=[]", "checks=false", "corruptions=false"]


@pytest.fixture(scope="module")
def weights(guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that has not seen fold 0 of 4."""
    runs = tmp_path_factory.mktemp("runs")
    words = [
        "image.size=64", "image.scale=[0.7,1.0]", "train.epochs=25", "train.batch=20", "train.mixup=0", "train.ema=0",
        "optim.method=adamw", "optim.lr=0.01", "optim.head_multiplier=1", "data.folds=4", "data.fold=0",
        "evaluate_test=false",
    ]  # fmt: skip
    assert main(small_run(guide, runs, "victim", *words)) == 0
    return runs / "classify/victim/model.safetensors"


def words_of(weights: Path, guide: Manifest, runs: Path, *more: str) -> list[str]:
    return ["attack", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={runs}", *QUICK, *more]


def figures(runs: Path, name: str, split: str = "test") -> dict:
    return json.loads((runs / f"attack/{name}/result.json").read_text())[split]


@pytest.fixture(scope="module")
def whole(weights: Path, guide: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of an undisturbed attack, with every part, by one process without loader workers."""
    runs = tmp_path_factory.mktemp("attacks")
    assert main(words_of(weights, guide, runs, "name=whole", f"target={guide.classes[0]}")) == 0
    return runs


def test_the_run_folder_holds_figures_that_agree(whole: Path, guide: Manifest) -> None:
    told, folder = figures(whole, "whole"), whole / "attack/whole"
    assert told["count"] == 28
    assert 0.3 < told["clean"] < 1
    lowest = min(rows["8/255"]["accuracy"] for rows in told["attacks"].values())
    assert told["robust"] <= lowest < told["clean"]
    assert set(told["robust_under"]) == {"fgsm", "pgd", "mi_fgsm", "adaptive", "autoattack"}
    assert list(told["attacks"]["pgd"]) == ["2/255", "4/255", "8/255", "16/255"]
    entries, values = read_headline(folder, "test")
    assert sorted(entries.tolist()) == sorted(guide.split("test"))
    assert values.mean() == pytest.approx(told["robust"])
    right = round(28 * told["clean"])
    assert sum(pair["count"] for pair in told["flips"]) <= right
    assert told["targeted"]["class"] == guide.classes[0]
    assert told["targeted"]["taken_for_it"]["of"] == sum(
        round(row["count"] * row["clean"]) for name, row in told["per_class"].items() if name != guide.classes[0]
    )
    assert set(told["corruptions"]) == {"noise", "blur", "jpeg", "brightness", "fog", "mean"}
    assert len(told["checks"]) == 8
    assert np.mean([row["robust"] for row in told["per_class"].values()]) == pytest.approx(told["robust"])  # 7 each
    assert "Robustness of whole" in (folder / "card.html").read_text()
    assert not (folder / "checkpoints/chunks").exists()


def test_the_report_shows_it(whole: Path) -> None:
    tables = shown(whole / "attack/whole")
    assert tables["whole: accuracy by attack and epsilon"] == ["attack", "2/255", "4/255", "8/255", "16/255"]
    assert tables["whole: species that PGD turns into one another"] == ["is", "becomes", "images", "smallest epsilon"]
    assert tables["whole: accuracy under attack by class"][:4] == ["class", "images", "clean", "robust"]
    assert tables["whole: common corruptions, by strength"] == ["corruption", *"12345"]


def test_two_ranks_with_workers_killed_and_resumed_by_one_give_the_same(
    whole: Path, weights: Path, guide: Manifest, tmp_path: Path, fgvc: Callable
) -> None:
    more = [f"target={guide.classes[0]}", "name=killed", "data.workers=2"]
    process = fgvc(*words_of(weights, guide, tmp_path, *more), "--processes", "2")
    chunks = tmp_path / "attack/killed/checkpoints/chunks"
    kill_when(process, lambda: len(list(chunks.glob("adaptive-*/*.npz"))) >= 1)
    with FileLock(chunks.parents[1] / ".lock", timeout=60):  # ranks end once their launcher is gone
        done = list(chunks.glob("*/*.npz"))
    assert len(done) > 10
    assert main(words_of(weights, guide, tmp_path, *more, "data.workers=0")) == 0
    before, after = figures(whole, "whole"), figures(tmp_path, "killed")
    assert after == before


def test_images_are_drawn_by_seed(weights: Path, guide: Manifest, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(words_of(weights, guide, tmp_path, *PGD_ONLY, "images=10", f"seed={seed}", f"name={name}")) == 0
    drawn = [read_headline(tmp_path / f"attack/{name}", "test") for name in "abc"]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0][0], drawn[2][0])
    assert len(drawn[0][0]) == 10


def test_models_are_compared_under_one_attack(
    weights: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = words_of(weights, guide, tmp_path, *PGD_ONLY)[1:]
    settings = dict(word.split("=", 1) for word in words if not word.startswith("runs_dir"))
    settings |= {"attacks": ["pgd"], "curve": []}
    rows = []
    for name, more in (("plain", {}), ("quantized", {"preprocess": "quantize"})):
        file = tmp_path / f"{name}.yaml"
        nested: dict = {}
        for key, value in (settings | more).items():
            *parents, last = key.split(".")
            place = nested
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = yaml.safe_load(value) if isinstance(value, str) else value
        file.write_text(yaml.safe_dump(nested))
        rows.append(str(file))
    common = ["compare", "job=attack", f"runs_dir={tmp_path}", "name=both", *rows]
    assert main(common) == 2
    assert "job=attack: a weights file has one fold that it has not seen" in capsys.readouterr().err
    assert main([*common, "folds=4", "use_folds=1", "seeds=2"]) == 2
    assert "seeds=2: job=attack trains nothing: a seed only draws other images" in capsys.readouterr().err
    for key, value in (("epsilon", "4/255"), ("steps", 5), ("batch", 5), ("autoattack", {"queries": 30})):
        other = yaml.safe_load(Path(rows[1]).read_text())
        other[key] = other[key] | value if isinstance(value, dict) else value
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
        words = [*common[:-1], str(tmp_path / "other.yaml"), "folds=4", "use_folds=1"]
        assert main(words) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert f"row 'other': {'autoattack.queries' if key == 'autoattack' else key}=" in said
        assert "in the first row; rows are compared on the same images, measured in the same way" in said
    assert main([*common, "folds=4", "use_folds=1"]) == 0
    table = (tmp_path / "compare/both/table.md").read_text()
    assert "robust accuracy %" in table
    assert "under linf 8/255, the worst of pgd." in table
    header = next(line for line in table.splitlines() if line.startswith("| row"))
    assert [cell.strip() for cell in header.split("|")[2:5]] == ["robust accuracy %", "clean %", "pgd %"]
    assert ",clean,pgd" in (tmp_path / "compare/both/table.csv").read_text().splitlines()[0]
    assert "No row touched the test split" in table
    told = json.loads((tmp_path / "compare/both/result.json").read_text())["rows"]
    plain, masked = (row["robust"] for row in told)
    assert masked > plain  # PGD alone does not see past the rounding
    assert told[1]["difference"][0] == pytest.approx(masked - plain)
    assert told[0]["images"] == 20
    assert told[1]["columns"]["pgd"] == masked <= told[1]["columns"]["clean"]
    sweep = {
        "program": "fgvc", "method": "grid", "metric": {"name": "val_robust", "goal": "maximize"},
        "command": ["fgvc", "attack", rows[0], "split=held_out", "data.folds=4", "data.fold=0", "${args_no_hyphens}"],
        "parameters": {"epsilon": {"values": ["2/255", "32/255"]}},
    }  # fmt: skip
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump(sweep))
    assert main(["sweep", str(tmp_path / "sizes.yaml"), f"runs_dir={tmp_path}"]) == 0
    scores = json.loads((tmp_path / "sweep/sizes/result.json").read_text())["trials"]
    small, large = scores["trial-000"], scores["trial-001"]
    assert large < small <= 1
    assert "the best trial is the easiest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["epsilon=4"],
            "epsilon=4: pixels are in [0, 1] here, so the largest change is at most 1; did you mean 4/255?",
        ),
        (["epsilon=lots"], "epsilon=lots: expected a number or a fraction"),
        (["norm=l3"], "norm='l3'"),
        (["attacks=[pgb]"], "attacks: unknown 'pgb'; did you mean 'pgd'?"),
        (["attacks=[]"], "attacks is empty"),
        (["attacks=[transfer]"], "transfer needs both"),
        (["target=Stork"], "target=Stork: no such class"),
        (["preprocess=jpeg", "preprocess_strength=300"], "preprocess_strength=300: jpeg takes 1 to 100"),
        (["weights=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_mistakes_are_one_line(
    weights: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], says: str
) -> None:
    assert main(words_of(weights, guide, tmp_path, *PGD_ONLY, *words)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in last
    assert "Traceback" not in last


def test_outputs_that_are_not_finite_name_an_image(
    weights: Path, guide: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = load_file(weights)
    state["fc.bias"][1] = math.nan
    export(tmp_path / "bad.safetensors", state, read_about(weights))
    assert main(words_of(tmp_path / "bad.safetensors", guide, tmp_path, *PGD_ONLY)) == 2
    first = guide.entries[guide.split("test")[0]].key
    assert f"clean: the model's outputs are not finite for 28 of 28 images, first '{first}'" in capsys.readouterr().err


def test_every_job_has_its_debug_run(weights: Path, guide: Manifest, tmp_path: Path) -> None:
    words = ["attack", f"weights={weights}", f"data.shards={guide.folder}", f"runs_dir={tmp_path}", "seen=true"]
    assert main([*words, "--on", "debug"]) == 0
    (result,) = tmp_path.glob("attack/*-debug/result.json")
    assert json.loads(result.read_text())["train"]["count"] == 8
