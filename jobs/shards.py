"""`fgvc shards`: build shards from a raw dataset, verify, show and list them, write them as COCO.

fgvc shards build cub200 CUB_200_2011 data/cub200            real birds, bytes as they came
fgvc shards build image_folder photos data/mine shrink=512   any folder with one folder a class
fgvc shards build field_guide - data/field_guide             drawn here, nothing to download
fgvc shards build SOURCE ROOT OUT track.wandb=auto           what was built to W&B too, as every job does
fgvc shards build SOURCE ROOT OUT corrections=FILE           as fgvc audit found it: pictures dropped, relabelled
fgvc shards build cub200 raw data/cub200 --download          fetches the official archive into raw first
fgvc shards verify data/cub200                               read every byte, decode every image
fgvc shards show data/cub200                                 table, and a contact sheet with the boxes
fgvc shards list data/cub200 | head                          the samples as JSON lines
fgvc shards verify https://HOST/birds                        FOLDER is an address too: http, https, s3
fgvc shards coco data/cub200 cub200_coco                     as COCO: annotations/SPLIT.json and images/
fgvc shards build coco cub200_coco data/again                and back, or any other COCO data set
"""

import argparse
import dataclasses
import functools
import importlib
import sys
import time
from pathlib import Path
from typing import Any, get_type_hints

from fgvc.runtime.config import TrackConfig
from fgvc.runtime.tracking import Tracker
from jobs.config import describe, from_dict, load
from jobs.hints import next_lines
from jobs.words import Parser
from shards.building.build import build
from shards.building.config import BuildOptions
from shards.coco_export import export
from shards.errors import UserError
from shards.manifest import Manifest, read_manifest, write_manifest
from shards.options import option
from shards.paths import address, expand
from shards.remote import open_manifest
from shards.show import sample_lines, show
from shards.sources import SOURCES
from shards.sources.corrections import corrected
from shards.verify import verify


@dataclasses.dataclass
class BuildTrack(TrackConfig):
    """Where a build is logged, if any of this is set."""

    folder: str = option("", "for metrics.jsonl and W&B's files (empty: runs/shards/<name of OUT>)")


@dataclasses.dataclass
class Tracked:
    track: BuildTrack = dataclasses.field(default_factory=BuildTrack)


def main(argv: list[str]) -> int:
    """Run the words after `fgvc shards`; the exit code (1 when verify found something).

    Raises UserError in one line for everything a user can fix.
    """
    words = read(argv)
    return COMMANDS[words.command](words)


def read(argv: list[str]) -> argparse.Namespace:
    """The words, with a build's settings checked; nothing is opened. Raises UserError as `main` does."""
    if "--download" in argv and argv[0] == "build":  # as flags are written; argparse would not take it between settings
        argv = [*(word for word in argv if word != "--download"), "download=true"]
    words = _parser(argv).parse_args(argv)
    if words.command == "build":
        words.track = load(Tracked, overrides=[word for word in words.settings if word.startswith("track.")]).track
        words.tracked = any(word.startswith("track.") for word in words.settings)
        words.settings = [word for word in words.settings if not word.startswith("track.")]
        source = build_settings(words.source, words.settings).source
        if mirror := getattr(source, "mirror", ""):
            address(mirror, "mirror")  # settings are logged, whether it is downloaded from there or not
    return words


def build_from(
    source: str, root: str | Path, out: str | Path, settings: dict[str, Any] | list[str] | None = None
) -> Manifest:
    """Read a raw dataset and build its shards in `out`; returns at once when they are already built.

    settings: of the source and of the build, as {"shrink": 256} or ["shrink=256"]. A name that both have is the
    source's; `build.NAME` and `source.NAME` always tell them apart.
    Raises UserError on an unknown source or setting, an invalid dataset, and as `shards.building.build.build` does.
    """
    config = build_settings(source, settings)
    if str(root) == "-" and source != "field_guide":
        raise UserError(f"{source}: needs ROOT, the folder with the raw dataset; only field_guide is drawn without one")

    raw = _module(source).scan(Path(root), config.source)
    if config.build.corrections:
        raw = corrected(raw, expand(config.build.corrections, "corrections"))
    return build(raw, Path(out), config.build)


def build_settings(source: str, settings: dict[str, Any] | list[str] | None = None) -> Any:
    """The settings of a build, as `build_from` takes them: `source` and `build`. Raises UserError for unknown ones."""
    kind = _settings_of(source)
    if isinstance(settings, dict):
        values: dict[str, dict] = {}
        for key, value in settings.items():
            group, dot, name = _full_key(kind, key).partition(".")
            values.setdefault(group, {})
            values[group] = values[group] | {name: value} if dot else value
        return from_dict(kind, values, f"settings of {source}")
    return load(kind, overrides=[_full_key(kind, word) for word in settings or []])


def _build(words: argparse.Namespace) -> int:
    start = time.monotonic()
    manifest = build_from(words.source, words.root, words.out, words.settings)
    size = sum(shard.size for shard in manifest.shards)
    counts = ", ".join(f"{count} {split}" for split, count in sorted(manifest.counts.items(), reverse=True))
    print(
        f"{words.out}: {len(manifest.classes)} classes, {counts} images, {len(manifest.shards)} shards, "
        f"{size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s"
    )
    for note, count in (manifest.notes | manifest.extra.get("corrections", {})).items():
        print(f"  {note}: {count}")
    if words.tracked:
        _log_build(words.track, words, manifest, time.monotonic() - start)
    print(next_lines("shards", folder=words.out))
    return 0


def _log_build(track: BuildTrack, words: argparse.Namespace, manifest: Manifest, seconds: float) -> None:
    folder = expand(track.folder, "track.folder") if track.folder else Path("runs/shards") / Path(words.out).name
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"source": words.source, "root": str(words.root), "out": str(words.out), "settings": words.settings}
    tracker = Tracker(track, folder, "shards", Path(words.out).name, settings)
    try:
        counts = {f"images/{split}": count for split, count in manifest.counts.items()}
        figures = counts | {"classes": len(manifest.classes), "shards": len(manifest.shards), "seconds": seconds}
        tracker.log(0, figures | {"fingerprint": manifest.fingerprint})
        tracker.summary(figures)
    finally:
        tracker.close()


def _verify(words: argparse.Namespace) -> int:
    manifest = open_manifest(words.folder, "FOLDER")
    problems = verify(manifest)
    for problem in problems:
        print(problem)
    verdict = f"{len(problems)} problems" if problems else "no problems"
    print(f"{words.folder}: {len(manifest.entries)} images in {len(manifest.shards)} shards: {verdict}")
    return 1 if problems else 0


def _show(words: argparse.Namespace) -> int:
    manifest = open_manifest(words.folder, "FOLDER")
    picture = None if words.picture == "-" else Path(words.picture or manifest.folder / "contact_sheet.png")
    print(show(manifest, picture))
    print(next_lines("shards", folder=words.folder))
    return 0


def _list(words: argparse.Namespace) -> int:
    for line in sample_lines(open_manifest(words.folder, "FOLDER")):
        print(line)
    return 0


def _coco(words: argparse.Namespace) -> int:
    manifest = open_manifest(words.folder, "FOLDER")
    for split, file in export(manifest, Path(words.out), images=not words.no_images).items():
        print(f"{file}: {manifest.counts[split]} images")
    return 0


def _convert(words: argparse.Namespace) -> int:
    manifest = read_manifest(words.folder)
    if manifest.entries.path is not None:
        print(f"{words.folder}: has columns already ({len(manifest.entries)} images)")
        return 0
    try:
        write_manifest(manifest)
    except OSError as error:
        raise UserError(f"{error.filename or words.folder}: {error.strerror or error}") from None
    print(f"{words.folder}: {len(manifest.entries)} images, now as columns")
    return 0


COMMANDS = {"build": _build, "verify": _verify, "show": _show, "list": _list, "coco": _coco, "convert": _convert}


def _module(source: str) -> Any:
    if source not in SOURCES:
        raise UserError(f"{source}: no such source; there are {', '.join(SOURCES)}")
    return importlib.import_module(SOURCES[source])


@functools.cache
def _settings_of(source: str) -> Any:
    """A dataclass of two groups: `source` (its own options) and `build`. Raises UserError on an unknown source."""
    options = _module(source).Options
    groups = (("source", options), ("build", BuildOptions))
    return dataclasses.make_dataclass(
        f"{source}_settings", [(name, kind, dataclasses.field(default_factory=kind)) for name, kind in groups]
    )


def _full_key(kind: Any, word: str) -> str:
    """`shrink=256` -> `build.shrink=256`: users need not know which group a setting belongs to."""
    key = word.partition("=")[0]
    for name, group in get_type_hints(kind).items():
        if key in (field.name for field in dataclasses.fields(group)):
            return f"{name}.{word}"
    return word


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    style: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser("fgvc shards", description=__doc__, **style)
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))

    about = "Check a raw dataset and write it as shards. Interrupted builds resume where they stopped."
    build = commands.add_parser("build", description=about, epilog=_settings_help(argv), help=about, **style)
    build.add_argument("source", metavar="SOURCE", help=" | ".join(SOURCES))
    build.add_argument("root", metavar="ROOT", help="folder of the raw dataset; - for field_guide")
    build.add_argument("out", metavar="OUT", help="folder for the shards, new, or of an interrupted build")
    build.add_argument("settings", metavar="key=value", nargs="*", default=[], help="settings, listed below")

    about = "Read every byte and decode every image of finished shards; exit code 1 when something is wrong."
    verify = commands.add_parser("verify", description=about, help=about, **style)
    verify.add_argument("folder", metavar="FOLDER")

    about = "Print what shards hold and draw a contact sheet with the boxes."
    show = commands.add_parser("show", description=about, help=about, **style)
    show.add_argument("folder", metavar="FOLDER")
    show.add_argument("picture", metavar="PICTURE.png", nargs="?", help="FOLDER/contact_sheet.png; - draws none")

    about = "Print the samples as JSON lines: key, split, class, width, height, boxes, origin."
    samples = commands.add_parser("list", description=about, help=about, **style)
    samples.add_argument("folder", metavar="FOLDER")

    about = "Write shards as COCO: OUT/annotations/SPLIT.json and OUT/images/KEY.jpg. The way back: build coco OUT."
    coco = commands.add_parser("coco", description=about, help=about, **style)
    coco.add_argument("folder", metavar="FOLDER")
    coco.add_argument("out", metavar="OUT", help="folder for the COCO data set")
    coco.add_argument("--no-images", action="store_true", help="the annotation files only")

    about = "Write a manifest of an earlier version, which takes seconds and gigabytes to open where it is large, anew."
    convert = commands.add_parser("convert", description=about, help=about, **style)
    convert.add_argument("folder", metavar="FOLDER")
    return parser


def _settings_help(argv: list[str]) -> str:
    if argv[:1] != ["build"] or not {"-h", "--help"} & set(argv):
        return ""
    text = "settings of every build:\n" + describe(BuildOptions)
    for source in set(argv) & set(SOURCES):
        return f"settings of {source}:\n{describe(_module(source).Options)}\n\n{text}"
    return (
        f"{text}\n\nThe settings of a source: fgvc shards build SOURCE --help, such as fgvc shards build cub200 --help"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
