"""`fgvc pipeline`: every stage once, in order, whatever is killed; mistakes before anything starts."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cluster_commands import wait_until
from interruptions import finish
from same_run import history
from small_pipeline import BUILD, begin, weights, write_pipeline

from fgvc.use.find import find_weights
from jobs.cli import main
from jobs.experiments.pipeline_checks import _hashes, drop_old_reports, refuse_others
from jobs.experiments.pipeline_file import plan, read
from jobs.experiments.pipeline_run import dry_run, locked, submit
from shards.errors import UserError
from shards.files import sha256_of
from slurm.profile import Profile

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begin(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `fgvc pipeline birds.yaml` has run, undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    write_pipeline(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        assert main(["pipeline", "birds.yaml"]) == 0
    return folder


@pytest.fixture
def done(birds: Path, finished: Path) -> Path:
    """As `birds`, with all that a finished pipeline leaves."""
    for name in ("data", "runs"):
        shutil.copytree(finished / name, name)
    return birds


def test_killed_driver_and_stage(done: Path, finished: Path, fgvc: Start) -> None:
    """From shards and a classifier that are done: those are kept, the rest ends in an undisturbed pipeline's bits."""
    for stage in ("classify/other", "attack"):
        shutil.rmtree(done / stage)
    kept = (done / "classify/classifier/result.json").stat().st_mtime_ns
    process = fgvc("pipeline", "birds.yaml")
    wait_until(lambda: len(list((done / "classify/other/checkpoints").glob("step-*"))) >= 2)
    process.kill()  # the stage ends with it, and saves
    process.communicate()
    assert not (done / "classify/other/result.json").exists()
    finish(fgvc("pipeline", "birds.yaml"))
    assert len(json.loads((done / "classify/other/starts.json").read_text())) == 2
    assert (done / "classify/classifier/result.json").stat().st_mtime_ns == kept
    calm = finished / "runs/pipeline/birds"
    assert weights(done) == weights(calm)
    assert history(done / "classify/other") == history(calm / "classify/other")
    ours, theirs = (json.loads((home / "attack/attack/result.json").read_text()) for home in (done, calm))
    assert ours["test"] == theirs["test"]


def test_stages_side_by_side_have_half_of_the_cores_each(finished: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip("one core: nothing runs side by side")
    spans = []
    for name in ("classify/classifier", "classify/other", "attack/attack"):
        folder = finished / "runs/pipeline/birds" / name
        assert json.loads((folder / "result.json").read_text())["hardware"]["cores"] == cores // 2
        start = json.loads((folder / "starts.json").read_text())[-1]
        spans.append((start["began"], start["began"] + start["seconds"]))
    first, other, attack = spans
    # A run begins once its imports, of more than 2 s, are done: one after another they would be further apart.
    assert max(other[0], attack[0]) < min(other[1], attack[1]) + 2
    assert first[1] <= min(other[0], attack[0])  # which both wait for


def test_what_is_done_is_not_done_again(done: Path, capsys: pytest.CaptureFixture) -> None:
    began = time.monotonic()
    assert main(["pipeline", "birds.yaml"]) == 0
    assert time.monotonic() - began < 5
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert shown[:4] == [[stage, "done"] for stage in ("shards", "classifier", "other", "attack")]
    assert list(json.loads((done / "result.json").read_text())["stages"]) == ["shards", "classifier", "other", "attack"]
    assert (done / "shards/metrics.jsonl").is_file()  # the build is logged too
    ended = (done / "result.json").stat().st_mtime_ns
    assert main(["pipeline", "birds.yaml"]) == 0
    assert (done / "result.json").stat().st_mtime_ns == ended  # it did not end once more
    capsys.readouterr()
    assert main(["pipeline", "birds.yaml", "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]] == ["done"] * 4


def test_pictures_that_are_not_there_are_not_taken_for_those_of_the_shards(
    done: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["pipeline", "birds.yaml", "data.source=image_folder", "data.root=tpyo", "data.build={}"]
    assert main(words) == 2
    assert "tpyo: no such folder, and " in capsys.readouterr().err
    run = "pipeline/birds/classify/classifier"  # as fgvc status names it
    assert find_weights(run).samefile(done / "classify/classifier/model.safetensors")


def test_what_was_made_of_something_else_is_not_done(done: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pipeline", "birds.yaml", "data.build={species: 5}", "name=five"]) == 2
    assert "data/birds: holds other shards: " in capsys.readouterr().err
    (done / "classify/classifier/model.safetensors").write_bytes(weights(done)[1])
    assert main(["pipeline", "birds.yaml"]) == 2
    errors = capsys.readouterr().err
    assert "stage attack: " in errors
    assert "holds a run of attack on another version of" in errors


def test_shards_that_were_made_again_are_noticed_whoever_built_them(done: Path, capsys: pytest.CaptureFixture) -> None:
    """Also where the pipeline has no stage that builds them; another stage's own shards are compared with its own."""
    words = ["pipeline", "birds.yaml", "data.source=", "--dry-run"]
    assert main(words) == 0
    shutil.copytree("data/birds", "data/same")
    assert main(["pipeline", "birds.yaml", "attack.data.shards=data/same", "--dry-run"]) == 0
    build = [f"{key}={value}" for key, value in (BUILD | {"species": 5}).items()]
    assert main(["shards", "build", "field_guide", "-", "data/other", *build]) == 0
    capsys.readouterr()
    for shards, stage in (("data.shards", "classifier"), ("attack.data.shards", "attack")):
        assert main([*words, f"{shards}=data/other"]) == 2
        assert f"stage {stage}: " in (errors := capsys.readouterr().err)
        assert "on another version of the shards; delete that folder" in errors


def test_one_command_at_a_time(birds: Path, capsys: pytest.CaptureFixture) -> None:
    """Another one changes nothing of what the first one's `fgvc status` and report are made of."""
    config = read(["birds.yaml"])
    with locked(config):
        (birds / "stages.json").write_text("[]")
        for more in ([], ["--on", "cpu"]):
            assert main(["pipeline", "birds.yaml", *more]) == 2
            assert "birds: in use by another fgvc pipeline; end it" in capsys.readouterr().err
        with pytest.raises(UserError, match="in use by another"):
            submit(config, [], Profile(), False)
    assert (birds / "stages.json").read_text() == "[]"


def test_a_detector_is_trained_once_for_both_stages_that_need_it(birds: Path) -> None:
    """Or refused before anything is trained; what the detector's stage made again since is noticed."""
    crop = {"detect": "tiny.yaml", "trained": "${finder}"}
    Path("tiny.yaml").write_text(yaml.safe_dump({"image": {"size": 64}, "train": {"epochs": 2}}))
    stages = {"finder": {"job": "detect", "config": "tiny.yaml"}, "boxes": {"job": "crop", "set": crop}}
    data = {"shards": "data/birds"}
    Path("two.yaml").write_text(yaml.safe_dump({"data": data, "stages": stages}, sort_keys=False))
    for_all = plan(read(["two.yaml", "set={train.deterministic: true}"]))
    assert [one.after for one in for_all] == [(), ("finder",)]
    with pytest.raises(UserError, match=r"stage boxes: trained: .* train.epochs \(3 -> 2\); give both the same"):
        plan(read(["two.yaml", "finder.train.epochs=3"]))
    plan(read(["two.yaml", "finder.train.epochs=3", "boxes.set={train.epochs: 3}", "finder.evaluate_test=false"]))

    planned = plan(read(["two.yaml"]))
    finder, boxes = (one.command.folder for one in planned)
    finder.mkdir(parents=True)
    boxes.mkdir(parents=True)
    (finder / "result.json").write_text("{}")
    (finder / "model.safetensors").write_bytes(b"weights")
    made_of = [sha256_of(finder / "model.safetensors")[:16]]
    (boxes / "result.json").write_text(json.dumps({"inputs": {"shards": "1"}, "detectors": made_of}))
    refuse_others(planned)
    (finder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match=r"stage boxes: .* on another version of .*finder"):
        refuse_others(planned)


def test_settings_of_a_build_that_downloads_are_compared_too(done: Path, capsys: pytest.CaptureFixture) -> None:
    given = {"data": {"shards": "data/birds", "source": "cub200", "root": "raw", "build": {"download": True}}}
    stages = yaml.safe_load(Path("birds.yaml").read_text())["stages"]
    Path("birds.yaml").write_text(yaml.safe_dump(given | {"stages": stages}, sort_keys=False))
    assert main(["pipeline", "birds.yaml", "data.build={download: true, shrink: 32, min_shards: 3}"]) == 2
    assert "data/birds: holds other shards: shrink=0 there, shrink=32 asked; set" in capsys.readouterr().err
    assert not Path("raw").exists()


def test_what_a_stage_reads_of_a_runs_folder_is_known(done: Path) -> None:
    """train.temperature_from=${STAGE} names a folder."""
    folder = done / "classify/classifier"
    digest = sha256_of(folder / "predictions_test.npz")[:16]
    assert {digest, sha256_of(folder / "model.safetensors")[:16]} <= _hashes(folder)


def test_ranks_are_said_of_this_machine_alone(birds: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pipeline", "birds.yaml", "processes=2", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("--processes 2") == 3
    assert main(["pipeline", "birds.yaml", "processes=2", "--dry-run", "--on", "h100"]) == 0
    assert "--processes" not in "".join(capsys.readouterr().out.split("#!")[1:])


def test_a_failure_ends_it_and_says_how_to_resume(done: Path, capsys: pytest.CaptureFixture) -> None:
    for stage in ("classify/other", "attack"):
        shutil.rmtree(done / stage)
    assert main(["pipeline", "birds.yaml", "other.train.batch=900"]) == 1
    captured = capsys.readouterr()
    assert "stage other failed: fgvc classify: train.batch=900" in captured.err
    assert "the same command" in captured.err
    states = {line.split()[0]: line.split()[1] for line in captured.out.splitlines()}
    assert (states["classifier"], states["attack"]) == ("done", "done")  # attack ran beside it, and still ended


def test_parts_of_a_pipeline(done: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pipeline", "birds.yaml", "name=new", "--only", "attack"]) == 2
    assert "stage attack needs classifier, which is not done" in capsys.readouterr().err
    assert main(["pipeline", "birds.yaml", "--until", "clasifier"]) == 2
    assert "'clasifier' is no stage; did you mean 'classifier'?" in capsys.readouterr().err
    shutil.rmtree(done / "classify/other")
    assert main(["pipeline", "birds.yaml", "--until", "classifier"]) == 0
    assert "other" not in capsys.readouterr().out
    changed = "classifier.train.epochs=1"
    assert main(["pipeline", "birds.yaml", changed, "--only", "attack"]) == 2  # its classifier would be another one
    assert "classify/classifier: holds a run of another config: train.epochs (3 -> 1)" in capsys.readouterr().err
    planned = plan(read(["birds.yaml"]))
    assert [one.after for one in planned] == [(), ("shards",), *[("shards", "classifier")] * 2]
    assert [one.command.state for one in planned] == ["done", "done", "new", "done"]
    capsys.readouterr()
    assert main(["status", "pipeline/birds"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["shards", "done"], ["classifier", "done"], ["other", "waiting"], ["attack", "done"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which pipeline?"),
        (["nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["birds.yaml", "clasifier.seed=1"], "unknown key 'clasifier'; did you mean 'classifier'?"),
        (["birds.yaml", "classifier.train.epoch=1"], "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["birds.yaml", "classifier.train.epochs=many"], "train.epochs='many'"),
        (["birds.yaml", "data.root=x", "data.shards="], "data.shards is not set"),
        (["birds.yaml", "attack.weights=${clasifier}/model.safetensors"], "'${clasifier}' is no stage; did you mean"),
        (["birds.yaml", "classifier.model.weights=${attack}/model.safetensors"], "'attack' comes later"),
        (["birds.yaml", "classifier.name=mine"], "stage classifier: 'name' is set by the pipeline"),
        (["birds.yaml", "attack.epsilon=4"], "stage attack: epsilon=4"),
        (["birds.yaml", "data.build={size: tiny}"], "size='tiny'"),
        (["birds.yaml", "set={train.epoch: 3}"], "unknown key 'train.epoch'"),
        (["birds.yaml", "--on", "moon"], "--on moon: no such cluster"),
        (["birds.yaml", "classifier.minutes=long"], "minutes='long'"),
        (["birds.yaml", "classifier.image={size: 64}"], "'image' is a group of settings"),
        (["birds.yaml", "report.name=mine"], "unknown key 'report'"),
        (["birds.yaml", "name=a/b"], "name=a/b: a pipeline's name is one folder name"),
        (["birds.yaml", "--from", "attack", "--until", "other"], "leave no stage"),
    ],
)
def test_mistakes_are_named_in_one_line(
    birds: Path, words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["pipeline", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not birds.exists()


def test_every_shipped_pipeline_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With its commands as they would run, on a cluster's profile too."""
    monkeypatch.chdir(tmp_path)
    for variable in ("FGVC_REAL_DATA", "FGVC_WEIGHTS", "CUB_200_2011", "STANFORD_DOGS"):
        monkeypatch.setenv(variable, "/data")
    from jobs.config import SHIPPED

    for file in sorted((SHIPPED / "pipeline").glob("*.yaml")):
        assert main(["pipeline", str(file), "--dry-run", "--on", "h100", "runs_dir=elsewhere"]) == 0, file
        shown = capsys.readouterr().out
        assert "GPU-hours" in shown
        assert shown.count("#SBATCH --job-name=") == len(plan(read([str(file)])))


def test_a_report_older_than_a_stage_is_made_again_but_not_by_a_dry_run(birds: Path) -> None:
    file = yaml.safe_load(Path("birds.yaml").read_text())
    file["stages"] |= {"report": {"job": "report"}}
    Path("birds.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
    planned, page = plan(read(["birds.yaml"])), Path("runs/report/birds/report.html")
    for one in planned:
        mark = one.command.folder / one.command.mark
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text("{}")
    assert planned[-1].after == ("shards", "classifier", "other", "attack")
    drop_old_reports(planned)
    assert page.is_file()
    os.utime(birds / "attack/attack/result.json", (later := page.stat().st_mtime + 5, later))
    dry_run(read(["birds.yaml"]), planned, None)
    assert page.is_file()
    drop_old_reports(planned)
    assert not page.exists()


def test_a_signal_stops_the_stage_and_says_so(done: Path, fgvc: Start) -> None:
    shutil.rmtree(done / "classify/other")
    process = fgvc("pipeline", "birds.yaml", "other.train.epochs=400")
    wait_until(lambda: len(list((done / "classify/other/checkpoints").glob("step-*"))) >= 2)
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, code=3)
    assert "stopped by SIGTERM in other; the same command resumes" in errors
