"""Every command in README, docs, docstrings and the shipped configs is right; the walk for newcomers is really run."""

import re
import shutil
from pathlib import Path

import pytest
from documented import ROOT, Documented, documented, problem_of, variants
from made_trees import make_folder

from jobs.cli import main
from jobs.config import SHIPPED
from jobs.hints import NEXT, next_lines
from jobs.registry import COMMANDS
from shards.manifest import Manifest

UNCHECKED = {  # by command, with the reason
    "cancel": "asks Slurm for its queue before it looks at its words",
    "count": "the job that docs/extending.md has its reader write",
}
FOUND = documented()


@pytest.fixture
def empty(tmp_path: Path, guide: Manifest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without data, but with every variable that a shipped config reads."""
    monkeypatch.chdir(tmp_path)
    for file in SHIPPED.rglob("*.yaml"):
        for name in re.findall(r"\$\{([A-Z][A-Z0-9_]*)\}", file.read_text()):
            monkeypatch.setenv(name, "/nowhere")
    Path("data").mkdir()
    Path("data/field_guide_gan").symlink_to(guide.folder)  # per_class=true asks the shards for their classes
    return tmp_path


def test_every_command_is_right(empty: Path) -> None:
    checked = {found.shown: found for found in FOUND if found.command not in UNCHECKED}
    assert "\n".join(filter(None, (problem_of(found, empty) for found in checked.values()))) == ""


def test_every_command_is_documented_and_what_is_not_checked_is_still_there() -> None:
    assert {*COMMANDS, *UNCHECKED} <= {found.command for found in FOUND}
    sources = {found.place for found in FOUND}
    assert {f"jobs/{name.replace('-', '_')}.py" for name in COMMANDS} <= sources
    silent = [file for file in SHIPPED.rglob("*.yaml") if str(file.relative_to(ROOT)) not in sources]
    assert silent == []


def test_every_hint_of_what_comes_next_is_right(empty: Path) -> None:
    known = {
        "folder": "runs/classify/my birds", "name": "birds", "shards": "data/my birds", "weights": "model.safetensors",
        "out": "data/made", "layer": "boxes.jsonl", "rate": "0.01", "run": "birds", "file": "resnet50.safetensors",
    }  # fmt: skip
    for command in NEXT:
        for line in next_lines(command, **known).splitlines():
            assert problem_of(Documented(f"jobs/hints.py: {command}", line.partition(": ")[2]), empty) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        "fgvc clasify CONFIG", "fgvc classify CONFIG optim.lrr=1", "fgvc shards build cub200 A B shrnk=5",
        "fgvc shards buld A", "fgvc predict a.jpg", "fgvc predict a.jpg --run RUN tip=5", "fgvc export RUN",
        "fgvc compare a.yaml b.yaml folds=1", "fgvc classify CONFIG --on h1000", "fgvc gan CONFIG --on CLUSTER nods=2",
        "fgvc sweep FILE train.epoch=3", "fgvc pipeline CONFIG clasifier.seed=1", "fgvc report", "fgvc cluster up|dwn",
        "fgvc attack CONFIG --on debug | --procesess 2", "fgvc find-lr CONFIG low=2 high=1", "fgvc sweep agent A/B/C",
        "fgvc weights get resnet50 a.txt", "sbatch slurm/job.sbatch classify CONFIG x=1",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(empty: Path, wrong: str) -> None:
    assert problem_of(Documented("here", wrong), empty).startswith("here: ")


def test_links_in_the_docs_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = path.read_text()
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^):\s]*)\)", text):
            file = path.parent / target if target else path
            assert file.exists(), f"{path.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{path.name}: {target}#{anchor}"


TINY = ["model.name=test_resnet", "model.weights=none", "data.workers=0"]
SMALLER = {  # what makes a step of the walk take seconds
    "audit": [*TINY, "size=32"],
    "classify": [*TINY, "image.size=32", "train.batch=8", "track.wandb=disabled"],
    "explain": ["images=6", "sanity_images=0", "contrasts=1", "track.wandb=disabled"],
    "attack": ["images=6", "steps=2", "curve=[]", "corruptions=false", "track.wandb=disabled"],
}


@pytest.mark.slow
def test_the_walk_with_a_data_set_of_ones_own_leads_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", classes=3, per_class=10)
    first = next((tmp_path / "photos").rglob("*.jpg"))
    shutil.copy(first, "new.jpg")
    shutil.copy(first, first.with_name("again.jpg"))  # a copy for the audit, which the second build drops
    walk = list(dict.fromkeys(found.shown for found in FOUND if found.place == "docs/own_data.md"))
    walk = [shown for shown in walk if "--help" not in shown]
    ran = []
    for shown in walk:
        (words,) = variants(shown)
        if words[0] not in ("pipeline", "weights", "serve", "status"):
            assert main([*words, *SMALLER.get(words[0], [])]) == 0, shown
            ran.append(words[0])
    steps = ["shards", "shards", "audit", "shards", "classify", "predict", "explain", "attack", "report", "export"]
    assert ran == steps
    said = "".join(capsys.readouterr())
    assert "dropped: 1" in said
    assert "next: fgvc audit data/mine" in said
    assert "Traceback" not in said
    for made in ("audit/mine/index.html", "audit/mine/corrections.csv", "classify/photos/class_accuracy.png",
                 "explain/photos-test/classes.png", "report/mine/report.html"):  # fmt: skip
        assert (tmp_path / "runs" / made).is_file(), made
    assert (tmp_path / "data/mine/contact_sheet.png").is_file()
    assert {"model.onnx", "model.safetensors", "README.md"} <= {file.name for file in (tmp_path / "export").iterdir()}
