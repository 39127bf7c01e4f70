"""fgvc report on recorded runs of every job: figures, order, hostile names, damage, limits, mistakes."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from report_page import Page
from reported_runs import HOSTILE, PICTURES, recorded

from fgvc.reporting import page as reporting_page
from fgvc.reporting import pictures
from fgvc.reporting.numbers import FORMS, value_at
from fgvc.reporting.page import write_page
from fgvc.reporting.runs import read_runs, runs_in
from fgvc.reporting.sections.caveats import test_touches as touches_of
from jobs.classify import Config
from jobs.cli import main
from jobs.config import flatten

SECTIONS = [
    "headline", "data", "classifier", "confusions", "crops", "detectors", "gan", "explanations", "robustness",
    "comparisons", "costs", "caveats", "records",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("report") / "runs")


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    assert main(["report", str(runs), f"runs_dir={runs}", "name=all"]) == 0
    return Page(runs / "report/all/report.html")


def report_of(runs: Path, *words: str) -> Page:
    assert main(["report", *words, f"runs_dir={runs}", "name=one"]) == 0
    return Page(runs / "report/one/report.html")


def test_every_figure_is_that_of_its_run(page: Page, runs: Path) -> None:
    assert len(page.figures) > 350
    results: dict[str, Any] = {}
    for given, text in page.figures:
        key, path, shown = page.values[given["href"].removeprefix("#")]
        result = results.setdefault(key, json.loads((runs / key / "result.json").read_text()))
        value = value_at(result, tuple(json.loads(path)))
        assert json.loads(shown) == value
        assert text == FORMS[given["data-form"]](value)
    assert set(results) == {str(path.parent.relative_to(runs)) for path in runs.glob("*/*/result.json")}


def test_sections_come_in_order_and_each_only_where_a_run_gives_it(page: Page, runs: Path) -> None:
    def sections(page: Page) -> list[str]:
        return [given["id"] for tag, given in page.tags if tag == "section" and "id" in given]

    assert sections(page) == SECTIONS
    few = sections(report_of(runs, "classify/ours"))
    assert few == ["headline", "data", "classifier", "confusions", "costs", "caveats", "records"]
    shown = sum(tag == "img" for tag, _ in page.tags)
    assert shown == sum(map(len, PICTURES.values()))


def test_the_origins_recipe_stands_beside_ours_and_its_published_figures_are_marked(page: Page, runs: Path) -> None:
    assert "origin's published figures (other data)" in page.text
    rows = re.findall(r"<tr.*?</tr>", (runs / "report/all/report.html").read_text(), re.S)
    (ours,) = [row for row in rows if ">classify/ours<" in row and "ResNet-50: CUB 70.8" in row]
    assert ours.count('data-form="percent"') == 2  # ours, and the recipe's
    assert not any(">classify/old<" in row and "ResNet-50: CUB 70.8" in row for row in rows)


def test_test_measurements_are_counted(runs: Path) -> None:
    touched = {run.key: touches_of(run) for run in read_runs(list(runs_in(runs))) if run.result}
    assert touched["classify/ours"] == touched["explain/why"] == touched["attack/worst"] == 1
    assert touched["crop/cut"] == touched["compare/versus"] == touched["gan/made"] == 0


def test_hostile_names_stay_text(page: Page, runs: Path) -> None:
    assert all(name in page.text for name in HOSTILE)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert all(given["src"].startswith("data:image/webp;") for tag, given in page.tags if tag == "img")
    assert not any(name.startswith("on") for _, given in page.tags for name in given)
    assert all(given["href"].startswith(("#", "../")) for tag, given in page.tags if tag == "a")
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}


def test_control_characters_of_a_result_steer_neither_page_nor_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runs = recorded(tmp_path / "runs")
    file = runs / "classify/ours/result.json"
    file.write_text(file.read_text().replace("=1+1", r"\u001b[31mred\u202e\u0000"))
    (runs / "classify/old/result.json").write_text('{"\x1b[31m')
    page = report_of(runs, "classify/ours", "classify/old")
    assert not set("\x1b\x00\u202e") & set((runs / "report/one/report.html").read_text())
    assert "\ufffd[31mred\ufffd\ufffd" in page.text
    assert "\x1b" not in "".join(capsys.readouterr())


def test_damaged_and_unfinished_runs_are_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    runs = recorded(tmp_path / "runs")
    (runs / "classify/old/result.json").write_text("{not json")
    (runs / "gan/made/result.json").unlink()
    (runs / "detect/found/result.json").write_text('{"test": [], "val": {"top_right": "x", "AP": null}, "seconds": {}}')
    (runs / "explain/why/classes.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (runs / "attack/worst/config.yaml").write_text("a: [1")
    with (runs / "evaluate/again/metrics.jsonl").open("w") as lines:
        lines.write('{"step": 1, "epoch": 1, "loss": 2.0}\n{"step": 2, \n[]\n{"step": 2, "epoch": 2, "loss": NaN}\n')
    page = report_of(runs, str(runs))
    said = capsys.readouterr().err
    for run, what in (
        ("classify/old", "damaged: result.json"), ("gan/made", "unfinished: no result yet"),
        ("explain/why", "damaged: classes.png"), ("attack/worst", "damaged: config.yaml"),
        ("evaluate/again", "damaged: metrics.jsonl: 1 line is not JSON"),
    ):  # fmt: skip
        assert f"fgvc report: {run}: {what}" in said
        assert run in page.text
    assert "Traceback" not in said
    sections = [given["id"] for tag, given in page.tags if tag == "section" and "id" in given]
    assert sections == SECTIONS  # curves of the GAN and the detector are there
    assert sum(tag == "img" for tag, _ in page.tags) == sum(map(len, PICTURES.values())) - 1


ODD: list[Any] = [
    [], 1, "x", None, {"test": {"methods": {"cam": 3}, "per_class": [], "flips": [3], "attacks": {"pgd": [1]}}},
    {"rows": [1, {}, {"top1": 0.5, "difference": [1]}], "headline": "top1", "touched_test": {"a": "b"}},
    {"boxes": {"train": 5}, "hardware": [], "test": {}, "seconds": "long", "git": 5, "kept": {}, "rewinds": [1]},
    {"test": {"top1": True, "count": 1e999, "confused": [None], "top_right": 0.5}, "inputs": {"shards": {}}},
    {"test": {"robust": 0.5, "checks": {"a": 1}, "frechet": -1, "top1": 7, "count": 0, "ece": None}, "val": 3},
    {"rows": {"0": 1}, "test": {"methods": {}, "best": [], "differences": {"a": 1}, "notes": "n"}, "config": []},
]  # fmt: skip


def test_results_of_any_shape_do_no_harm(tmp_path: Path) -> None:
    jobs = ("classify", "detect", "crop", "gan", "synthesize", "explain", "attack", "compare", "another")
    for job in jobs:
        for at, value in enumerate(ODD):
            folder = tmp_path / "runs" / job / f"odd{at}"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(value))
            (folder / "config.yaml").write_text(yaml.safe_dump({"data": value, "model": value}))
    page = report_of(tmp_path / "runs", str(tmp_path / "runs"))
    keys = {given["data-key"] for _, given in page.tags if "data-key" in given}
    assert keys == {f"{job}/odd{at}" for job in jobs for at in range(len(ODD))}


def test_time_and_size_stay_in_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 classes, 30,000 steps, pictures that are too many for what is allowed."""
    runs = recorded(tmp_path / "runs")
    file = runs / "classify/ours/result.json"
    result = json.loads(file.read_text())
    names = [f"{number:03d}.Some_Bird_of_a_Long_Name" for number in range(200)]
    result["test"]["per_class"] = {name: number / 200 for number, name in enumerate(names)}
    file.write_text(json.dumps(result))
    with (runs / "classify/ours/metrics.jsonl").open("w") as lines:
        for step in range(30_000):
            lines.write(json.dumps({"step": step, "epoch": step / 1000, "loss": 1 / (1 + step), "lr": 0.1}) + "\n")
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    for file in runs.glob("*/*/*.png"):
        Image.fromarray(noise).save(file)
    monkeypatch.setattr(pictures, "BUDGET", 40_000)
    began = time.monotonic()
    report = write_page(tmp_path / "report.html", "large", read_runs(list(runs_in(runs))))
    assert time.monotonic() - began < 60
    page = Page(tmp_path / "report.html")
    shown = [len(given["src"]) for tag, given in page.tags if tag == "img"]
    assert 0 < sum(shown) <= 40_000
    assert report.bytes == (tmp_path / "report.html").stat().st_size < 2_000_000
    assert any("left out" in problem for problems in report.problems.values() for problem in problems)
    assert [run.state for run in report.runs] == ["done"] * len(report.runs)  # nothing is wrong with them


def test_a_page_that_is_too_large_leaves_out_json_that_no_figure_shows(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for run in ("classify/ours", "attack/worst"):
        shutil.copytree(runs / run, tmp_path / run)
    file = tmp_path / "classify/ours/result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"long": ["a word"] * 20_000}))
    figures = report_of(tmp_path, "classify/ours", "attack/worst").figures
    size = (tmp_path / "report/one/report.html").stat().st_size
    assert size > 200_000
    assert "left out" not in capsys.readouterr().err
    monkeypatch.setattr(reporting_page, "MAX_BYTES", size - 100_000)
    page = report_of(tmp_path, "classify/ours", "attack/worst")
    assert capsys.readouterr().err.endswith("what no figure shows: classify/ours\n")  # the one that is long
    assert (tmp_path / "report/one/report.html").stat().st_size <= size - 100_000
    assert page.figures == figures
    assert {given["href"].removeprefix("#") for given, _ in page.figures} <= page.values.keys()
    assert page.text.count("the page would be too large") == 1


def test_the_same_runs_give_the_same_bytes(page: Page, runs: Path) -> None:
    before = (runs / "report/all/report.html").read_bytes()
    assert main(["report", str(runs), f"runs_dir={runs}", "name=all"]) == 0
    assert (runs / "report/all/report.html").read_bytes() == before


def test_words_that_name_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(runs / "classify/ours", tmp_path / "other/classify/ours")
    shutil.copytree(runs / "attack/worst", tmp_path / "other/attack/ours")
    folder = f"{tmp_path}/other/classify/ours"
    both = report_of(runs, "classify/ours", folder, f"{runs}/classify/ours")
    keys = [given["data-key"] for _, given in both.tags if "data-key" in given]
    assert keys == [f"{runs}/classify/ours", folder]  # told apart, and none twice
    assert main(["report", "ours", f"runs_dir={tmp_path}/other"]) == 0
    assert (tmp_path / "other/report/ours/report.html").is_file()
    assert "2 runs" in capsys.readouterr().out
    steps = tmp_path / "other/pipeline/demo"
    shutil.copytree(runs / "classify/ours", steps / "classify/step")
    (steps / "result.json").write_text("{}")
    assert main(["report", "pipeline/demo", f"runs_dir={tmp_path}/other"]) == 0
    assert (tmp_path / "other/report/step/report.html").is_file()
    found = ["attack/ours", "classify/ours", "pipeline/demo/classify/step"]
    for place in (tmp_path / "other", tmp_path / "other/pipeline"):
        kept = [run for run in found if (tmp_path / "other" / run).is_relative_to(place)]
        assert [str(folder.relative_to(tmp_path / "other")) for folder in runs_in(place)] == kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which runs?"),
        (["classify/nope"], "classify/nope: no run there"),
        (["ours", "colour=red"], "'colour=red' is not a setting of report"),
        (["ours", "name=../up"], "a report's name is one folder name"),
        (["ours", "name=.hidden"], "a report's name is one folder name"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", *words, f"runs_dir={runs}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_command_that_is_shown_makes_the_run_again(page: Page, runs: Path, capsys: pytest.CaptureFixture) -> None:
    commands = {given["data-key"]: given["data-command"] for _, given in page.tags if "data-command" in given}
    assert commands["classify/ours"] == f"fgvc classify {runs}/classify/ours/config.yaml"
    assert main([*commands["classify/ours"].split()[1:], "--dry-run"]) == 0
    printed = flatten(yaml.safe_load(capsys.readouterr().out), Config)
    recorded = flatten(yaml.safe_load((runs / "classify/ours/config.yaml").read_text()), Config)
    assert len(recorded) > 50
    assert {key: printed[key] for key in recorded} == recorded  # settings that came since stand at their defaults
    assert set(commands) == {str(path.parent.relative_to(runs)) for path in runs.glob("*/*/config.yaml")}
