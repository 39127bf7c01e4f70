"""What the report says of figures: gains, cards, which recipe is whose, GPU-hours."""

from pathlib import Path

import yaml
from places import ROOT

from fgvc.reporting.blocks import Badge
from fgvc.reporting.origin import is_origins, origin_row
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.comparisons import best_row, verdict, verdict_of
from fgvc.reporting.sections.comparisons import section as compared
from fgvc.reporting.sections.costs import gpu_hours
from fgvc.reporting.sections.overview import cards, section


def test_a_gain_is_one_only_where_its_whole_interval_is() -> None:
    assert [verdict_of(*pair).text for pair in ((0.001, 0.1), (0.0, 0.1), (-0.1, 0.1), (-0.2, -0.1))] == [
        "gain", "no difference shown", "no difference shown", "loss",
    ]  # fmt: skip


def test_a_gain_of_many_rows_counts_them() -> None:
    """The interval leaves 0 out, and p of the one row of three does not."""
    rows = [{"top1": 0.5}, {"top1": 0.6, "difference": [0.1, 0.01, 0.19], "p_holm": 0.09}]
    run = Run(Path("runs/compare/x"), result={"headline": "top1", "rows": rows})
    assert verdict(run, 1) == verdict_of(0.01, 0.19)  # one row: the interval says it
    rows.append({"top1": 0.4, "difference": [-0.1, -0.19, -0.01], "p_holm": 0.04})
    assert [verdict(run, place).text for place in (1, 2)] == ["no difference shown", "loss"]  # type: ignore[union-attr]


def test_figures_that_say_nothing_of_new_images_are_marked_and_come_last(tmp_path: Path) -> None:
    results = {"debug": {"count": 64, "top1": 0.9}, "good": {"count": 100, "top1": 0.7}}
    runs = [Run(tmp_path / "classify" / name, name, {"test": row}) for name, row in results.items()]
    runs.append(Run(tmp_path / "evaluate/seen", "seen", {"train": {"count": 100, "top1": 1.0}, "seen": True}))
    for run in runs:
        run.folder.mkdir(parents=True)
    (runs[0].folder / ".debug").touch()
    assert [card.figure.value for card in cards(runs)] == [0.7]
    assert [card.below[-1] for card in cards(runs[2:])] == [Badge("seen in training", "bad")]
    (table,) = section(runs).blocks
    marks = [row.cells[0].parts[2:] for row in table.rows]  # type: ignore[union-attr]
    assert marks == [(" ", Badge("debug run", "bad")), (), (" ", Badge("seen in training", "bad"))]


def test_gpu_hours_of_crop_are_those_of_its_detectors_ranks() -> None:
    result = {"seconds": 1800, "hardware": {"gpus": ["H100"] * 4, "ranks": 1}}
    assert gpu_hours(Run(Path("runs/crop/x"), result=result, config={"processes": 4})) == 2.0
    assert gpu_hours(Run(Path("runs/crop/x"), result=result)) == 0.5


def test_which_recipes_are_the_origins() -> None:
    def run_of(job: str, file: Path) -> Run:
        return Run(Path(f"runs/{job}/x"), config=yaml.safe_load(file.read_text()))

    for file in (ROOT / "configs/origin").glob("*.yaml"):
        job = "gan" if file.stem.startswith("dcgan") else "classify"
        assert is_origins(run_of(job, file)), file
    for job in ("classify", "gan"):
        assert not any(is_origins(run_of(job, file)) for file in (ROOT / "configs" / job).glob("*.yaml"))


def test_the_origins_row_of_a_comparison_need_not_be_the_first() -> None:
    rows = [{"top1": 0.6, "label": "probe"}, {"top1": 0.1, "label": "origin"}, {"top1": 0.8, "label": "ours"}]
    configs = [{"config": f"configs/{name}.yaml"} for name in ("classify/ours", "origin/theirs", "origin/theirs")]
    made = {"headline": "top1", "split": "val", "rows": rows, "config": {"rows": configs}}
    run = Run(Path("runs/compare/x"), "compare/x", made)
    (table,) = section([run]).blocks
    assert [cell.sort for cell in table.rows[0].cells][2] == 0.1  # type: ignore[union-attr]
    marked = [
        any("origin's recipe" in str(part) for part in row.cells[0].parts) for row in compared([run]).blocks[0].rows
    ]
    assert marked == [False, True, False]
    rows[2]["top1"] = 0.05
    assert best_row(run) == 2  # the origin's row is not ours, however good
    configs[1]["config"] = configs[2]["config"] = "configs/classify/ours.yaml"
    assert origin_row(run) == 1  # as it is called


def test_what_measures_the_origins_weights_is_not_ours() -> None:
    origin = yaml.safe_load((ROOT / "configs/origin/resnet50_cub.yaml").read_text())
    runs = [
        Run(Path("runs/classify/old"), "classify/old", {"test": {"count": 9, "top1": 0.2}}, origin),
        Run(Path("runs/evaluate/x"), "evaluate/x", {"test": {"count": 9, "top1": 0.3}}),
        Run(Path("runs/attack/x"), "attack/x", {"test": {"robust": 0.0, "norm": "linf", "epsilon_shown": "2/255"}}),
    ]
    for run in runs[1:]:
        run.config = {"weights": "elsewhere/classify/old/model.safetensors"}
    assert cards(runs) == []
    (table,) = section(runs).blocks
    assert [column.name for column in table.columns] == [  # type: ignore[union-attr]
        "what", "origin's recipe, same data", "origin's published figures (other data)",
    ]  # fmt: skip
    assert [row.cells[1].sort for row in table.rows] == [0.2, 0.3, 0.0]  # type: ignore[union-attr]
    assert len(cards(runs[1:])) == 2  # whose weights these are is not known without that run
