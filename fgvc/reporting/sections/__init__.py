"""The sections of a page, in its order."""

from collections.abc import Sequence

from fgvc.reporting.blocks import Section
from fgvc.reporting.runs import Run
from fgvc.reporting.sections import (
    boxes,
    caveats,
    classifier,
    comparisons,
    confusions,
    costs,
    data,
    explanations,
    gan,
    overview,
    robustness,
)

MAKERS = (
    overview.section, data.section, classifier.section, confusions.section, boxes.crops, boxes.detectors, gan.section,
    explanations.section, robustness.section, comparisons.section, costs.section, caveats.section,
)  # fmt: skip


def sections(runs: Sequence[Run]) -> list[Section]:
    """Those that these runs give. What a maker cannot show of a run is added to the run's problems."""
    made = [make(runs) for make in MAKERS]
    return [section for section in made if section.blocks]
