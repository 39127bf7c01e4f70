"""Both images are built from the lock, by the same steps, with all of the code."""

import re
import subprocess
import tomllib

from places import ROOT

FOLDER = ROOT / "containers"


def copied() -> set[str]:
    """What the Apptainer definition copies into the image."""
    block = (FOLDER / "fgvc.def").read_text().partition("%files\n")[2].partition("\n\n")[0]
    pairs = [line.split() for line in block.splitlines()]
    assert all(target == f"/opt/fgvc/{source}" for source, target in pairs)
    return {source for source, _ in pairs}


def test_both_copy_the_same_and_all_packages() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "**"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied()
    assert all((ROOT / name).exists() for name in copied())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["importlinter"]["root_packages"]) | {"requirements.lock", "README.md"} <= copied()


def test_both_install_with_the_locks_python_by_the_same_steps() -> None:
    python = re.search(r"Python (3\.\d+)", (ROOT / "requirements.lock").read_text())
    assert python is not None
    images = [(FOLDER / name).read_text() for name in ("Dockerfile", "fgvc.def")]
    for text in images:
        assert re.search(rf"^F(ROM|rom:) python:{python[1]}-slim-bookworm$", text, re.MULTILINE)
        assert re.findall(r"install\.sh (\w+)", text) == ["packages", "fgvc"]
    system = [re.search(r"apt-get install -y --no-install-recommends ([^&]+)", text) for text in images]
    assert system[0] is not None
    assert system[1] is not None
    assert system[0][1] == system[1][1]


def test_the_steps_are_those_of_make_install() -> None:
    script, makefile = (FOLDER / "install.sh").read_text(), (ROOT / "Makefile").read_text()
    assert subprocess.run(["sh", "-n", str(FOLDER / "install.sh")]).returncode == 0
    for step in ("-r requirements.lock", "--no-deps --force-reinstall", "--config-settings editable_mode=compat"):
        assert step in script
        assert step in makefile
