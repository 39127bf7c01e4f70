"""Classes named like scripts, tags, formulas and terminal codes, from the raw data to the browser: all harmless."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fgvc.models.export import export, read_about
from jobs.cli import main
from shards.cells import unquoted
from shards.manifest import Manifest

pytestmark = pytest.mark.slow
NAMES = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "=1+1", "@SUM(A1) {{ 7*7 }} | `x`")
RED = "\x1b[31mred"
SMALL = ["data.workers=0", "track.wandb=disabled"]


@pytest.fixture
def raw(guide: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's birds as a COCO data set with these names; an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    assert main(["shards", "coco", str(guide.folder), "raw"]) == 0
    rename(NAMES)
    return tmp_path / "raw"


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser here")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


def rename(names: tuple[str, ...]) -> None:
    for file in Path("raw/annotations").glob("*.json"):
        data = json.loads(file.read_text())
        for category, name in zip(data["categories"], names, strict=True):
            category["name"] = name
        file.write_text(json.dumps(data))


def test_hostile_class_names_are_text_everywhere(raw: Path, browser: Any, capfd: pytest.CaptureFixture) -> None:
    rename((*NAMES[:3], RED))
    assert main(["shards", "build", "coco", "raw", "data/birds"]) == 2  # a name that no terminal may see is refused
    rename(NAMES)
    for words in steps():
        assert main(words.split(" ")) == 0, words
    check_texts()
    renamed_weights()
    check_terminal(*capfd.readouterr())
    pages = ["runs/report/all/report.html", "runs/audit/birds/index.html", "runs/attack/a/card.html"]
    for page in pages:
        assert NAMES[0] in opened(browser, Path(page).absolute().as_uri()).locator("body").inner_text(), page
    served(browser)


def steps() -> Iterator[str]:
    """The commands of the whole chain, in order."""
    tiny, photos = "model.name=test_resnet model.weights=none", "raw/images"
    weights, shards = "weights=runs/classify/c/model.safetensors", "data.shards=data/birds"
    yield "shards build coco raw data/birds min_shards=1"
    yield from (f"shards {word} data/birds" for word in ("verify", "show", "list"))
    yield f"audit data/birds {tiny} size=32 doubt=1 near=0.5 data.workers=0"
    yield f"classify {shards} name=c {tiny} train.method=probe image.size=32 {' '.join(SMALL)}"
    yield f"evaluate {weights} {shards} name=e data.workers=0"
    yield (
        f"explain {weights} {shards} name=x methods=[gradcam,layercam] images=6 slow_images=2 sanity_images=0 birds=0 "
        f"contrasts=2 {' '.join(SMALL)}"
    )
    yield (
        f"attack {weights} {shards} name=a attacks=[fgsm,pgd] images=8 steps=2 checks=false corruptions=false "
        f"{' '.join(SMALL)}"
    )
    yield "export c card licence=cc0-1.0 formats=[timm]"
    yield f"predict {photos} --run c format=csv out=answers.csv pictures=seen"
    yield f"predict {photos} --run c"
    yield "report runs name=all"
    Path(f"runs/classify/{RED}").mkdir()
    Path(f"runs/classify/{RED}/identity.json").write_text("{}")
    yield from ("status", "status c", "status a", f"status {RED}")


def check_texts() -> None:
    """CSV files for spreadsheets, and the card for the hub."""
    files = [*Path("runs").rglob("*.csv"), Path("answers.csv")]
    cells = {cell for file in files for row in csv.reader(file.open()) for cell in row}
    assert {file.name for file in files} >= {"corrections.csv", "predictions_test.csv", "confusion_test.csv"}
    assert [cell for cell in cells if cell.lstrip(" ").startswith(("=", "@", "+"))] == []
    assert set(NAMES) <= {unquoted(cell) for cell in cells}
    card = Path("card/README.md").read_text()
    assert not any(part in card for part in ("<script", "<img", "`x`"))
    assert "=1\\+1" in card


def renamed_weights() -> None:
    """A weights file may bear any name, whatever it was trained on: what is made of one with a terminal code."""
    source = Path("runs/classify/c/model.safetensors")
    export(Path("red.safetensors"), load_file(source), read_about(source) | {"classes": [*NAMES[:3], RED]})
    picture = next(Path("raw/images").iterdir())
    shutil.copy(picture, f"{RED}.jpg")
    for words in (
        ["predict", f"{RED}.jpg", str(picture), "--run", "red.safetensors"],
        ["predict", f"{RED}.jpg", str(picture), "--run", "red.safetensors", "format=csv"],
        ["export", "red.safetensors", "red-card", "formats=[timm]"],
        ["explain", "weights=red.safetensors", f"photos={picture}", "methods=[layercam]", "name=red", *SMALL],
    ):
        assert main(words) == 0, words
    assert main(["evaluate", "weights=red.safetensors", "data.shards=data/birds", "name=red"]) == 2
    assert main(["predict", picture.name, "--run", RED]) == 2
    assert "\x1b" not in Path("red-card/README.md").read_text()


def check_terminal(out: str, err: str) -> None:
    assert "alert(1)" in out
    assert "control characters" in err
    assert "\x1b" not in out + err
    assert "Traceback" not in err


def opened(browser: Any, address: str) -> Any:
    """A page after all of its scripts; it may say nothing, ask nothing of anyone else, and run nothing from data."""
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert said == [], address
    assert {url for url in asked if not url.startswith("data:")} == {address}
    page.said = said
    return page


def served(browser: Any) -> None:
    """The page of fgvc serve, with an answer on it."""
    command = [sys.executable, "-m", "jobs.cli", "serve", "red.safetensors", "port=0"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    try:
        page = opened(browser, process.stdout.readline().strip())
        page.set_input_files("#file", str(next(Path("raw/images").iterdir())))
        page.wait_for_selector("#rows tr", timeout=30_000)
        shown = page.locator("#rows").inner_text()
        assert all(name in shown for name in (*NAMES[:3], "\\x1b[31mred"))
        assert page.said == []
    finally:
        process.terminate()
        process.wait(20)
