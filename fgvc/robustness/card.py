"""card.html: the robustness of a classifier on one page, a file that needs nothing else and loads nothing."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fgvc.robustness.epsilon import shown_epsilon
from shards.files import write_bytes

ALT = {
    "accuracy_curve": "accuracy against epsilon, by attack",
    "flip_matrix": "which species becomes which",
    "perturbed_images": "images as they are, perturbed, and the difference",
}


def write_card(
    path: Path, title: str, figures: Mapping[str, Any], facts: Mapping[str, str], pictures: Mapping[str, Path]
) -> None:
    """Write the card of a split's figures (fgvc.robustness.figures). facts: what was attacked and how, name -> text.
    pictures: PNG files, by name, which are put inside. Names from data are text, never markup."""
    environment = Environment(
        loader=PackageLoader("fgvc.robustness"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "interval": _interval, "size": shown_epsilon}
    inside = {
        name: "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() for name, file in pictures.items()
    }
    sizes = dict.fromkeys(
        shown for _, shown in sorted(
            (row["epsilon"], shown) for rows in figures["attacks"].values() for shown, row in rows.items()
        )
    )  # fmt: skip
    page = environment.get_template("card.html").render(
        title=title, figures=figures, facts=facts, pictures=inside, alt=ALT, sizes=list(sizes),
        red=[name for name, check in figures["checks"].items() if check["passed"] is False],
    )  # fmt: skip
    write_bytes(path, page.encode())


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _interval(pair: tuple[float, float]) -> str:
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"
