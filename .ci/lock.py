"""Write requirements.lock from what is installed here and needed, and the same pins into environment.yml.

.venv/bin/python .ci/lock.py        after a package was upgraded in .venv; tests/test_environment.py compares
"""

import importlib.metadata as metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK_HEAD = """\
# Exact versions of everything fgvc and its tests need (Linux, Python 3.11), written by .ci/lock.py.
#   pip install -r requirements.lock && pip install --no-deps --no-build-isolation -e .
# Packages of Python alone and setuptools (which builds fgvc itself) come from the same index as torch's CUDA wheels.
"""
ENVIRONMENT_HEAD = """\
# A GPU cluster's environment; the pip section is requirements.lock, written by .ci/lock.py.
#   micromamba create -f environment.yml && micromamba run -n fgvc pip install --no-deps --no-build-isolation -e .
# The compiler and nvcc are for DeepSpeed, which builds its operators at first use; torch brings its own CUDA libraries.
name: fgvc
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - git
  - make
  - gxx_linux-64
  - cuda-nvcc=13.0
  - pip:
"""


def pins(project: str = "fgvc", extra: str = "dev") -> dict[str, str]:
    """Name -> version of every installed package that `project[extra]` needs, directly or not, itself left out."""
    needed: dict[str, str] = {}
    asked = {(canonicalize_name(project), extra)}
    waiting = list(asked)
    while waiting:
        name, extra = waiting.pop()
        package = metadata.distribution(name)
        needed[name] = f"{package.metadata['Name']}=={package.version}"
        for line in package.requires or []:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            for wanted in ["", *requirement.extras]:
                one = (canonicalize_name(requirement.name), wanted)
                if one not in asked:
                    asked.add(one)
                    waiting.append(one)
    needed.pop(canonicalize_name(project))
    return {line.partition("==")[0]: line.partition("==")[2] for _, line in sorted(needed.items())}


def main() -> None:
    lines = [f"{name}=={version}" for name, version in pins().items()]
    (ROOT / "requirements.lock").write_text(LOCK_HEAD + "\n".join(lines) + "\n")
    section = "".join(f"      - {line}\n" for line in lines)
    (ROOT / "environment.yml").write_text(ENVIRONMENT_HEAD + section)
    print(f"{len(lines)} packages in requirements.lock and environment.yml")


if __name__ == "__main__":
    main()
