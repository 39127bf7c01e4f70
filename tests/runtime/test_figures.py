"""What is written in pictures is written as it is."""

from pathlib import Path

from fgvc.runtime.figures import pyplot, save_figure


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """matplotlib raises for a formula that it cannot read."""
    figure, axis = pyplot.subplots()
    axis.set_title(r"$\frac{$ and $x$")
    axis.set_yticks([0], [r"$\nothing$"])
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
