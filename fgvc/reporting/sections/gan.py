"""Generated images: distances to real ones, curves, grids; and what was made of them."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Badge, Gallery, Picture, Row, RunLink, Section, Table, cell, table
from fgvc.reporting.origin import is_origins
from fgvc.reporting.runs import Run
from fgvc.reporting.sections.shared import courses, galleries

PANELS = (
    (
        "Fréchet distance",
        (("train_frechet", "to training images", True), ("val_frechet", "to held-out images", True)),
        False,
    ),
    ("generator's loss", (("loss_generator", "generator", False),), False),
    ("discriminator's loss", (("loss_discriminator", "discriminator", False),), False),
)
PICTURES = {
    "nearest.png": "Generated images nearest to a training image, above it",
    "interpolations.png": "From one generated image to another",
}
GRIDS = 3  # of a run's course, the last one among them
FIGURES = (  # key, form, heading, meaning
    ("count", "count", "images", ""),
    ("frechet", "distance", "FD", "Fréchet distance: smaller is closer"),
    ("frechet_half", "distance", "FD, half", "FD of half of the images to half of the real ones"),
    ("floor", "distance", "floor", "FD between two halves of the real images: what FD, half would be at best"),
    ("kid", "decimal", "KID", ""),
    ("precision", "percent", "precision", "share of generated images that look real"),
    ("recall", "percent", "recall", "share of real images that are covered"),
    ("memorised", "percent", "copies", "generated images that are nearly a training image"),
    ("memorised_floor", "percent", "copies, real", "the same among real images"),
)


def section(runs: Sequence[Run]) -> Section:
    """Runs of gan and synthesize."""
    trained = [run for run in runs if run.job == "gan"]
    synthesized = [run for run in runs if run.job == "synthesize"]
    made = Section("gan", "Generated images", runs=[*trained, *synthesized])
    if measured := [run for run in trained if run.splits("frechet")]:
        made.blocks.append(_figures(measured))
    made.blocks += courses(trained, PANELS)
    for run in trained:
        if grids := _grids(run):
            made.blocks.append(Gallery(grids, f"{run.name}: samples in the course of training"))
    made.blocks += galleries(trained, PICTURES)
    if chosen := [run for run in synthesized if run.table("synthetic")]:
        made.blocks.append(_synthesized(chosen))
    made.blocks += galleries(synthesized, {"sheet.png": "Synthetic images that were kept"})
    return made


def _figures(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for split in run.splits("frechet"):
            mark = (" ", Badge("origin's recipe")) if is_origins(run) else ()
            figures = [cell(run.number(form, split, key)) for key, form, _, _ in FIGURES]
            features = cell(str(run.get(split, "title") or "") or None)
            rows.append(Row((cell(RunLink(run.key), *mark), cell(split), *figures, features)))
    headings: list[str | tuple[str, str]] = ["run", "against"]
    headings += [*((name, meaning) for _, _, name, meaning in FIGURES), "features"]
    note = (
        "Distances by different features are not comparable, and none of them is the FID of Inception unless the "
        "features are Inception's."
    )
    return table("Generated against real images", headings, rows, runs, (note,))


def _grids(run: Run) -> list[Picture]:
    """Samples early, in the middle and at the end."""
    early, last = run.pictures("grid-*.png"), run.pictures("grid.png")
    room = GRIDS - len(last)
    if len(early) > room:
        early = [early[at * (len(early) - 1) // max(room, 1)] for at in range(room)]
    named = [(file, f"after epoch {file.stem.removeprefix('grid-').lstrip('0') or '0'}") for file in early]
    named += [(file, "at the end") for file in last]
    return [Picture(file, f"{run.key}: generated images {when}", (when,), width=800) for file, when in named]


def _synthesized(runs: Sequence[Run]) -> Table:
    at, rows = "synthetic", []
    for run in runs:
        rows.append(Row((
            cell(RunLink(run.key)), cell(run.number("count", at, "count")), cell(run.number("percent", at, "accepted")),
            cell(run.number("count", at, "unsure")), cell(run.number("count", at, "copies")),
        )))  # fmt: skip
    accepted = ("accepted", "of the candidates that were looked at")
    return table("Synthetic shards", ("run", "images", accepted, "dropped as unsure", "dropped as copies"), rows, runs)
