"""A comparison's table for other programs: CSV with every figure unrounded, LaTeX as a paper prints it."""

import csv
import io
from collections.abc import Sequence

from fgvc.study.comparison import RowFigures, as_record, cells_of

# LaTeX's special characters, the backslash among them, so that each is replaced once.
SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$"}
)


def as_csv(rows: Sequence[RowFigures], key: str) -> str:
    """A line per row, figures as fractions of 1 and seconds. key: the headline figure's name."""
    records, names = [], dict.fromkeys(name for row in rows for name in row.columns)
    for row in rows:
        record = as_record(row, key)
        difference = record.pop("difference") or (None, None, None)
        record |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
        record.pop("columns", None)
        record |= {name: row.columns.get(name) for name in names}
        record["per_seed"] = " ".join(str(value) for value in record["per_seed"])
        records.append(record)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def as_latex(rows: Sequence[RowFigures], title: str) -> str:
    """The table as a tabular for the booktabs package. title: of the headline figure, in percent."""
    header, *lines = ([cell.translate(SPECIAL) for cell in line] for line in cells_of(rows, title))
    body = "\n".join(" & ".join(line) + r" \\" for line in lines)
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n"
        f"{' & '.join(header)} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )
