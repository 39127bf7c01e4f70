"""What several sections show in the same way: intervals of shares, curves of training, pictures side by side."""

from collections.abc import Mapping, Sequence

from fgvc.classification.metrics import wilson
from fgvc.reporting.blocks import Badge, Chart, Charts, Gallery, Line, Picture, RunLink, interval, present
from fgvc.reporting.charts import curve, line_chart
from fgvc.reporting.numbers import Derived, Number, bare_percent
from fgvc.reporting.runs import Run

SPLIT_NAMES = {
    "train": "training images", "test": "test images", "val": "held-out training images",
    "held_out": "held-out training images",
}  # fmt: skip
DEBUG = ".debug"  # in the folder of a run by --on debug
MANY = 30  # rows from which on a table is folded up
Panel = tuple[str, Sequence[tuple[str, str, bool]], bool]  # title, (column, label, measured now and then), a share


def images_of(split: str) -> str:
    """A split in words."""
    return SPLIT_NAMES.get(split, f"{split} images")


def doubts(run: Run) -> Line:
    """Why a run's figures say nothing of new images, as badges with a blank before each."""
    said = {"debug run": (run.folder / DEBUG).is_file(), "seen in training": bool(run.get("seen"))}
    return tuple(part for word, holds in said.items() if holds for part in (" ", Badge(word, "bad")))


def share_interval(share: Number | None, images: Number | None) -> Line:
    """The 95 % interval of a share of images, worked out from both."""
    if share is None or images is None or not 0 <= share.value <= 1 or images.value < 1:
        return ()
    made_from = f"Wilson's 95 % interval of {share.value:.4f} of {images.value:.0f} images"
    low, high = (
        Derived(bare_percent(bound), bound, made_from, share.run) for bound in wilson(share.value, images.value)
    )
    return interval(low, high)


def courses(runs: Sequence[Run], panels: Sequence[Panel]) -> list[Charts]:
    """A drawing a panel, with every run's lines in it; of one run a colour a line, of several a colour a run."""
    several, drawings = len(runs) > 1, []
    for title, columns, share in panels:
        lines = present(
            curve(
                run, name, f"{run.name}, {label}" if several else label, at if several else number,
                dashed=dots and several, dots=dots,
            )
            for at, run in enumerate(runs)
            for number, (name, label, dots) in enumerate(columns)
        )  # fmt: skip
        if lines:
            said = "; ".join(f"{line.label} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
            drawing = line_chart(lines, "epoch", title, share=share)
            drawings.append(Chart(drawing, f"{title} over the epochs: {said}"))
    return [Charts(drawings)] if drawings else []


def galleries(runs: Sequence[Run], files: Mapping[str, str], wide: bool = False) -> list[Gallery]:
    """A gallery a kind of picture, every run's side by side. files: name in the folder -> what it shows."""
    made = []
    for name, title in files.items():
        pictures = [
            Picture(file, f"{run.key}: {title}", (RunLink(run.key),)) for run in runs for file in run.pictures(name)
        ]
        if pictures:
            made.append(Gallery(pictures, title, wide or len(pictures) == 1))
    return made
