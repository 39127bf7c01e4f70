"""Where things are, from wherever a test is."""

import os
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[1]


def weights_file(name: str) -> Path:
    """A file in FGVC_WEIGHTS; the test is skipped where that is not set."""
    folder = os.environ.get("FGVC_WEIGHTS")
    if not folder:
        pytest.skip("FGVC_WEIGHTS is not set: no pretrained weights here")
    return Path(folder) / name
