"""The classes that are taken for one another, with pictures of why one and not the other."""

import json
from collections.abc import Sequence
from typing import Any

from fgvc.reporting.blocks import Gallery, Picture, Row, RunLink, Section, Table, Text, cell, table
from fgvc.reporting.numbers import Number
from fgvc.reporting.runs import SPLITS, Run
from fgvc.reporting.sections.shared import MANY, galleries

MOST = 4  # pictures of why A and not B, of a run
ROWS = {"confused_pairs.png": "Misclassified images on the left, and examples of the class they were taken for"}
WHY = (
    "Why A and not B: red speaks for A, blue for B; on the right, the training images of both that look most alike to "
    "the classifier. Pairs from the table come first."
)


def section(runs: Sequence[Run]) -> Section:
    """Runs of classify and evaluate, and what runs of explain show of the pairs."""
    chosen = [run for run in runs if any(run.rows(split, "confused") for split in SPLITS)]
    made = Section("confusions", "Confused pairs", ("Wrong answers, the most frequent first.",), runs=chosen)
    known: set[frozenset[str]] = set()
    if chosen:
        pairs = _table(chosen)
        made.blocks.append(pairs)
        known = {frozenset(row.classes) for row in pairs.rows}
    made.blocks += galleries([run for run in runs if run.job in ("classify", "evaluate", "ensemble")], ROWS)
    contrasts = [picture for run in runs if run.job == "explain" for picture in contrast_pictures(run, known)]
    if contrasts:
        made.blocks += [Text((WHY,)), Gallery(contrasts, "Why A and not B", wide=True)]
    return made


def _table(runs: Sequence[Run]) -> Table:
    """A row a pair, a column a run and split; the pairs with most images first."""
    measured = [(run, split) for run in runs for split in SPLITS if run.rows(split, "confused")]
    found: dict[tuple[str, str], dict[int, Number | None]] = {}
    for column, (run, split) in enumerate(measured):
        for place, pair in enumerate(run.rows(split, "confused")):
            if isinstance(pair, dict):
                names = (str(pair.get("truth")), str(pair.get("predicted")))
                found.setdefault(names, {})[column] = run.number("count", split, "confused", place, "count")
    counts = {names: sum(number.value for number in row.values() if number) for names, row in found.items()}
    rows = [
        Row((cell(names[0]), cell(names[1]), *(cell(found[names].get(at)) for at in range(len(measured)))), names)
        for names in sorted(found, key=lambda names: -counts[names])
    ]
    titles = [f"{run.key if len(runs) > 1 else 'images'}, {split}" for run, split in measured]
    note = "Images. Of every run and split the ten most frequent pairs are known; – says that a pair is not among them."
    return table(
        "Which class is taken for which", ("is", "taken for", *titles), rows, runs, (note,), folded=len(rows) > MANY
    )


def contrast_pictures(run: Run, known: set[frozenset[str]]) -> list[Picture]:
    """Pictures of why A and not B: those of known pairs first."""
    named, found = explained(run), []
    for file in run.pictures("contrasts/*.png"):
        about = named.get(file.stem, {})
        a, b, truth = (str(about.get(key) or "?") for key in ("predicted", "runner_up", "label"))
        alt = f"Why {a} and not {b}? An image of {truth}, what in it speaks for either, and training images of both"
        caption = (f"Why {a} and not {b}? Is {truth}.", " ", RunLink(run.key))
        found.append((frozenset((a, b)) not in known, Picture(file, alt, caption, (a, b, truth))))
    return [picture for _, picture in sorted(found, key=lambda pair: pair[0])][:MOST]


def explained(run: Run) -> dict[str, dict[str, Any]]:
    """File name of a picture -> the line of explanations.jsonl on the image that it shows."""
    lines = {}
    try:
        for text in (run.folder / "explanations.jsonl").read_text(encoding="utf-8").splitlines():
            about = json.loads(text)
            lines[_stem(str(about["key"]))] = about
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return lines


def _stem(key: str) -> str:
    """As fgvc.explanation.sheets names a picture."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in key)[:90] or "image"
