"""`fgvc shards` as users type it: build, build again, verify, and one line for every mistake."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from manifests import format_1
from places import ROOT

from jobs.shards import build_from, main
from shards.errors import UserError
from shards.manifest import COLUMNS, MANIFEST, write_manifest

SMALL = ["species=2", "train_per_class=20", "test_per_class=10", "size=64", "workers=1"]


def test_build_twice_and_verify(tmp_path, capsys):
    out = str(tmp_path / "birds")
    assert main(["build", "field_guide", "-", out, *SMALL]) == 0
    assert "2 classes, 40 train, 20 test images, 3 shards" in capsys.readouterr().out
    assert main(["build", "field_guide", "-", out, *SMALL]) == 0
    assert "already built" in capsys.readouterr().err
    assert main(["verify", out]) == 0
    with pytest.raises(UserError, match="60 images there, 70 asked"):
        main(["build", "field_guide", "-", out, *SMALL, "train_per_class=25"])
    manifest = build_from("field_guide", "-", out, {key: int(value) for key, value in (w.split("=") for w in SMALL)})
    assert manifest.counts == {"train": 40, "test": 20}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "cub", ".", "out"], "cub: no such source; there are cub200, stanford_dogs"),
        (["build", "cub200", "-", "out"], "cub200: needs ROOT"),
        (["build", "cub200", ".", "out", "shrnk=2"], "unknown key 'shrnk'; did you mean 'build.shrink'"),
        (["build", "cub200", ".", "out", "shrink=-2"], "build.shrink=-2: Input should be greater than or equal to 0"),
        (["build", "cub200", ".", "out", "shrink"], "settings are written key=value"),
        (["build", "cub200"], "the following arguments are required: ROOT, OUT"),
        (["verify", "nowhere"], "nowhere: no manifest.json there; build shards first: fgvc shards build SOURCE ROOT"),
        (["built"], "invalid choice: 'built'"),
    ],
)
def test_mistakes_are_named_in_one_line(words, message):
    with pytest.raises(UserError) as caught:
        main(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_list_prints_the_samples_as_json_lines(guide, capsys):
    assert main(["list", str(guide.folder)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["key"] for line in lines] == [entry.key for entry in guide.entries]
    first = guide.entries[0]
    assert lines[0] == {
        "key": first.key, "split": first.split, "class": guide.classes[first.label], "width": first.width,
        "height": first.height, "boxes": [list(box) for box in first.boxes], "origin": "real",
    }  # fmt: skip


def test_list_into_head_ends_quietly(guide, tmp_path):
    many = replace(guide, folder=tmp_path, entries=tuple(guide.entries) * 100)  # more than a pipe holds
    write_manifest(many)
    command = f"{sys.executable} -m jobs.cli shards list {tmp_path} | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_unknown_setting_from_a_config_is_named():
    with pytest.raises(UserError, match=r"unknown key 'shrnk'; did you mean 'build.shrink'"):
        build_from("cub200", ".", "out", {"shrnk": 2})


def test_help_lists_the_settings_of_the_source(capsys):
    with pytest.raises(SystemExit):
        main(["build", "field_guide", "--help"])
    text = capsys.readouterr().out
    assert "train_per_class: int = 40" in text
    assert "shrink: int" in text


def test_a_manifest_of_format_1_is_converted(guide, tmp_path, capsys):
    (tmp_path / MANIFEST).write_text(json.dumps(format_1(guide)))
    assert main(["convert", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 108 images, now as columns\n"
    for name in (MANIFEST, COLUMNS):  # what a build of this version writes, to the byte
        assert (tmp_path / name).read_bytes() == (guide.folder / name).read_bytes()
    assert main(["convert", str(tmp_path)]) == 0
    assert "has columns already" in capsys.readouterr().out
