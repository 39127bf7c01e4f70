"""The three descriptions of the environment agree: pyproject's ranges, requirements.lock, environment.yml; and so does
what is installed."""

import importlib.metadata as metadata
import tomllib
from importlib.util import cache_from_source
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def locked() -> dict[str, str]:
    """Canonical name -> version, of requirements.lock; every line is an exact pin."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    return {canonicalize_name(name): version for name, version in pins.items()}


def ranges() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    return [Requirement(line) for line in [*wanted, *project["build-system"]["requires"]]]


def test_the_conda_environment_has_the_locks_pins_and_only_those() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (section,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in section}
    assert len(section) == len(pins)
    assert pins == locked()


def test_the_conda_environments_python_is_one_the_project_allows() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [part for part in environment["dependencies"] if str(part).startswith("python=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python.removeprefix("python="))


@pytest.mark.parametrize("requirement", ranges(), ids=str)
def test_the_lock_lies_within_pyprojects_range(requirement: Requirement) -> None:
    version = locked()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_what_is_installed_is_what_the_lock_says() -> None:
    installed = {canonicalize_name(one.metadata["Name"]): one.version for one in metadata.distributions()}
    assert {name: installed.get(name) for name in locked()} == locked()


def test_torch_is_kept_compiled() -> None:
    """Where PYTHONDONTWRITEBYTECODE is set, every start would compile it again: seconds each time."""
    assert Path(cache_from_source(str(torch.__file__))).is_file()


def test_nothing_that_a_locked_package_needs_is_missing_from_the_lock() -> None:
    pins = locked()
    missing = {
        f"{name} needs {requirement.name}"
        for name in pins
        for requirement in map(Requirement, metadata.requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) not in pins
    }
    assert not missing
