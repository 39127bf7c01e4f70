"""fgvc doctor on this machine and on ones made poorer; as a process where what it imports is the matter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import main

Doctor = Callable[..., tuple[int, str]]


def doctor_process(folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and what it printed, both streams together."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "doctor"],
        cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Doctor:
    """The same in this process, which has imported torch already."""

    def run(*words: str, **environment: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(["doctor", *words])
        return code, "".join(capsys.readouterr())

    return run


def line(output: str, name: str) -> str:
    """The table's line of that name, with the advice under it."""
    lines = output.splitlines()
    (at,) = [number for number, text in enumerate(lines) if text[9:27].rstrip() == name]
    advice = lines[at + 1] if at + 1 < len(lines) and "->" in lines[at + 1] else ""
    return lines[at] + advice


def test_a_whole_machine_lacks_nothing_needed_and_finds_its_data(tmp_path: Path, guide) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "birds").symlink_to(guide.folder)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.safetensors").touch()
    code, output = doctor_process(tmp_path, FGVC_WEIGHTS=str(tmp_path / "weights"), WANDB_MODE="", WANDB_API_KEY="")
    assert code == 0, output
    assert "nothing needed is missing" in output
    assert line(output, "python").startswith("ok")
    assert line(output, "packages").startswith("ok")
    assert line(output, "shards") == f"ok       {'shards':18}data/birds: 4 classes, 108 images"
    assert line(output, "FGVC_WEIGHTS").endswith("weights: net.safetensors")
    assert line(output, "gloo").startswith("ok")


def test_missing_tools_are_named_with_the_way_to_get_them(doctor: Doctor, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, output = doctor(PATH=str(empty), CXX="", FGVC_REAL_DATA=str(tmp_path / "gone"), FGVC_WEIGHTS="")
    assert code == 0, output  # one can train without any of these
    assert line(output, "compiler").startswith("missing")
    assert "apt-get install g++" in line(output, "compiler")
    assert line(output, "slurm").startswith("missing")
    assert "not found: sinfo, sbatch" in line(output, "slurm")
    assert "slurm-client" in line(output, "slurm")
    assert line(output, "ninja").startswith("ok")  # pip's, beside python
    assert "export PATH=" in line(output, "ninja on PATH")
    assert "gone: empty or not there" in line(output, "FGVC_REAL_DATA")
    assert "not set" in line(output, "FGVC_WEIGHTS")


def test_a_broken_compiler_is_not_ok(doctor: Doctor, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    _, output = doctor(CXX=str(broken))
    assert "cannot build a library" in line(output, "compiler")


def test_a_package_that_does_not_load_is_needed_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    code, output = doctor_process(tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "operator torchvision::nms does not exist" in line(output, "torchvision")
    assert "missing and needed: torchvision" in output


def test_damaged_shards_are_told(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data" / "birds").mkdir(parents=True)
    (tmp_path / "data" / "birds" / "manifest.json").write_text("{")
    code, output = doctor()
    assert code == 0
    assert line(output, "shards").startswith("missing")
    assert "damaged" in line(output, "shards")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").is_dir(), reason="needs a folder root cannot write to")
def test_a_runs_dir_that_cannot_be_written_to_is_needed(doctor: Doctor) -> None:
    code, output = doctor("runs_dir=/proc/sys/runs")
    assert code == 1
    assert line(output, "runs_dir").startswith("missing")
    assert "missing and needed: runs_dir" in output


def test_help_teaches_and_an_unknown_word_is_one_line(doctor: Doctor) -> None:
    code, output = doctor("--help")
    assert code == 0
    assert "fgvc doctor runs_dir=" in output
    code, output = doctor("run_dir=x")
    assert code == 2
    assert output == "fgvc doctor: 'run_dir=x' is not a setting of doctor; there is one: runs_dir=FOLDER (see --help)\n"
