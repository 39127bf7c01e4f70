"""What a reader has to know before quoting a figure, as far as the runs tell."""

from collections.abc import Iterator, Sequence

from fgvc.reporting.blocks import Line, Points, Row, RunLink, Section, cell, line, table
from fgvc.reporting.numbers import Derived, is_number
from fgvc.reporting.runs import SPLITS, Run
from fgvc.reporting.sections.shared import DEBUG

SOURCES = {  # of data, by how its shards were built
    "stanford_dogs": (
        "Stanford Dogs is a subset of ImageNet: a network pretrained there has seen its test images, and a frozen one "
        "already reaches 95 %. Figures on it say little about new dogs."
    ),
    "cub200": (
        "CUB-200-2011 shares some 22 images with ImageNet's training set, where most pretrained networks come from."
    ),
    "field_guide": (
        "The field guide's birds are drawn by this suite: figures on them show that the machinery works, not how well "
        "it does on photographs."
    ),
}
FEW = 500  # images of a split
HINTS = {"dogs": "stanford_dogs", "cub": "cub200", "field_guide": "field_guide"}  # in the name of a shards' folder


def test_touches(run: Run) -> int:
    """How often a run measured a test split."""
    if run.job == "compare":
        return sum(value for value in run.table("touched_test").values() if isinstance(value, int))
    if run.job == "crop":
        name = str(run.data.get("test_split") or "test")
        return int(run.get("boxes", name, "with_truth") is not None)
    return int(isinstance(run.get("test"), dict))


def section(runs: Sequence[Run]) -> Section:
    """Counts of test measurements, and sentences."""
    done = [run for run in runs if run.result]
    touched = {run.key: test_touches(run) for run in done}
    total = sum(touched.values())
    lead = line(
        "The test split was measured ", Derived(str(total), total, "counted from the runs of this page"),
        f" time{'' if total == 1 else 's'} by the runs on this page. Each further look at it, with choices made after "
        "it, makes its figures a little too good.",
    )  # fmt: skip
    made = Section("caveats", "Caveats", lead, runs=done)
    if done:
        counted = [
            Row((cell(RunLink(key)), cell(Derived(str(count), count, "splits of result.json", key))))
            for key, count in touched.items()
        ]
        made.blocks.append(Points([*_of_data(done), *_of_runs(runs)]))
        headings = ("run", "measurements of the test split")
        made.blocks.append(table("How often the test split was touched", headings, counted, done))
    return made


def _of_data(runs: Sequence[Run]) -> list[Line]:
    found: dict[str, None] = {}
    for run in runs:
        folder = str(run.data.get("shards") or "").rstrip("/").rpartition("/")[2].lower()
        guessed = next((source for hint, source in HINTS.items() if hint in folder), "")
        source = str(run.data.get("source") or guessed)
        if source in SOURCES:
            found[SOURCES[source]] = None
    return [(sentence,) for sentence in found]


def _of_runs(runs: Sequence[Run]) -> list[Line]:
    lines: list[Line] = []
    for run in runs:
        lines += [(RunLink(run.key), f": {said}") for said in [*_of_measurement(run), *_of_making(run)]]
    return lines


def _of_measurement(run: Run) -> Iterator[str]:
    for split in SPLITS:
        images = run.get(split, "count")
        if run.job in ("classify", "evaluate", "ensemble") and is_number(images) and images < FEW:
            yield f"{images} images of {split} tell differences of several points apart, no smaller ones."
        if "ece" in run.table(split) and run.get(split, "temperature") is None:
            yield f"its probabilities on {split} are not calibrated."
    if run.get("seen"):
        yield "measured on images that the weights were trained on; it says nothing of new ones."
    elif "seen" in run.result and run.get("seen") is None:
        yield "whether the weights have seen these images is not recorded."
    if run.job == "compare" and run.get("config", "seeds") == 1:
        yield "one seed; its intervals leave out the spread between seeds."
    if kept := run.table("kept"):
        flattered = ", whose figures it flatters" if kept.get("chosen_on") == "val" else ""
        yield f"kept epoch {kept.get('epoch')} of {kept.get('of')}, the best on {kept.get('chosen_on')}{flattered}."


def _of_making(run: Run) -> Iterator[str]:
    if run.rows("rewinds"):
        yield "training broke and went back to a checkpoint at a lower learning rate."
    if str(run.get("git") or "").endswith("+"):
        yield "made by code that differs from its commit."
    if (run.folder / DEBUG).is_file():
        yield "a debug run of a few steps; its figures mean nothing."
