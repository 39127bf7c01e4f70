"""The page: sections and records of runs, rendered into one file that loads nothing."""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fgvc.reporting.blocks import Badge, Code, Gallery, RunLink, Section
from fgvc.reporting.numbers import Derived, Number
from fgvc.reporting.pictures import Pictures
from fgvc.reporting.record import LONG, Citations, json_text
from fgvc.reporting.runs import Run
from fgvc.reporting.sections import sections
from fgvc.reporting.sections.data import classes_of
from fgvc.reporting.sections.overview import cards
from shards.files import write_bytes

MAX_BYTES = 10 * 1000 * 1000
POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{style}'; style-src-attr 'unsafe-inline'; "
    "script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # controls, bidi overrides


def cleaned(text: str) -> str:
    """Text without characters that steer a terminal or a reader's eye."""
    return UNSEEN.sub("\ufffd", text)


@dataclass
class Report:
    """What a page was made of. problems: run's key -> what of it could not be read or shown. left_out: keys of runs
    whose result.json is not whole in it, since the page would be too large."""

    path: Path
    runs: Sequence[Run]
    bytes: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def write_page(path: Path, title: str, runs: Sequence[Run]) -> Report:
    """Write the page of these runs, in `MAX_BYTES` where leaving out of their JSON what the page does not show gets it
    there, the longest first. Raises UserError when the disk is full."""
    made = sections(runs)
    pictures = Pictures([picture for block in _blocks(made, Gallery) for picture in block.pictures])
    for file, reason in pictures.broken.items():
        run = _run_of(file, runs)
        run.problems.append(f"{file.relative_to(run.folder)}: {reason}")
    for file in pictures.omitted:
        run = _run_of(file, runs)
        run.omitted.append(f"{file.relative_to(run.folder)}: left out: the page would be larger than 10 MB")
    longest = sorted(runs, key=lambda run: -len(json.dumps(run.result)))
    left_out: list[str] = []
    page = render(path, title, runs, made, pictures).encode()
    while len(page) > MAX_BYTES and len(left_out) < len(runs):
        excess = len(page) - MAX_BYTES
        while excess > 0 and len(left_out) < len(runs):
            run = longest[len(left_out)]
            left_out.append(run.key)
            excess -= len(json.dumps(run.result))
        page = render(path, title, runs, made, pictures, left_out).encode()
    write_bytes(path, page)
    problems = {run.key: said for run in runs if (said := [*run.problems, *run.omitted])}
    return Report(path, runs, len(page), problems, left_out)


def _run_of(file: Path, runs: Sequence[Run]) -> Run:
    return next(run for run in runs if file.is_relative_to(run.folder))


def render(
    path: Path, title: str, runs: Sequence[Run], made: Sequence[Section], pictures: Pictures,
    left_out: Sequence[str] = (),
) -> str:  # fmt: skip
    """The page's text. path: where it will lie, for links to the runs' files. left_out: see `Report`."""
    style, script = (_asset(name) for name in ("style.css", "page.js"))
    environment = Environment(
        loader=PackageLoader("fgvc.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: cleaned(value) if type(value) is str else value,
    )  # fmt: skip
    numbers = {run.key: f"run-{number}" for number, run in enumerate(runs, start=1)}
    citations = Citations()
    kinds = {"number": Number, "derived": Derived, "code": Code, "badge": Badge, "run": RunLink}
    environment.tests |= {name: _is(kind) for name, kind in kinds.items()}
    environment.globals |= {"cite": citations.add, "run_id": numbers.__getitem__}
    classes = dict.fromkeys(name for run in runs for name in classes_of(run))
    titles = {section.id: section.title for section in made}
    return environment.get_template("page.html").render(
        title=title, runs=runs, sections=made, titles=titles, cards=cards(runs), classes=list(classes),
        style=Markup(style), script=Markup(script), policy=POLICY.format(style=_hash(style), script=_hash(script)),
        uri=lambda picture: Markup(pictures.uri(picture)), size=pictures.size.get,
        json_text=lambda run: json_text(run, citations, 0 if run.key in left_out else LONG), left_out=left_out,
        yaml_text=_yaml_text, link=lambda run, name: _link(run.folder / name, path),
    )  # fmt: skip


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _blocks(made: Sequence[Section], kind: type) -> list[Any]:
    return [block for section in made for block in section.blocks if isinstance(block, kind)]


def _asset(name: str) -> str:
    return (resources.files("fgvc.reporting") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _yaml_text(run: Run) -> str:
    return yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100) if run.config else ""


def _link(file: Path, page: Path) -> str:
    """A file's address relative to the page; empty where there is no such file."""
    if not file.is_file():
        return ""
    relative = os.path.relpath(file.resolve(), page.resolve().parent)
    return Path(relative).as_posix().replace("%", "%25").replace("?", "%3F").replace("#", "%23")
