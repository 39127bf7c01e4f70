"""`fgvc status` while other commands write."""

from pathlib import Path

import pytest

from jobs.cli import main


def test_a_file_that_is_gone_a_moment_later_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "classify/one"
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text("{}")
    (folder / ".held.json.7.tmp").symlink_to("gone")  # listed, and not there when it is looked at
    assert main(["status", f"runs_dir={tmp_path}"]) == 0
    assert "classify/one  stopped" in capsys.readouterr().out
