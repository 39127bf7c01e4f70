"""What fgvc report shows of a real run: the tests of the jobs ask, so that a renamed key does not leave the page."""

import html
import re
from pathlib import Path

from fgvc.reporting.page import write_page
from fgvc.reporting.runs import read_runs


def shown(folder: Path) -> dict[str, list[str]]:
    """Caption -> column headings, of every table with figures on a page of one run; no empty column is among them."""
    page = folder.parent / f"{folder.name}.html"
    report = write_page(page, "one", read_runs([folder]))
    text = page.read_text()
    page.unlink()
    assert report.problems == {}
    tables = {}
    for table in re.findall(r"<table.*?</table>", text, re.S):
        if "data-form" in table:
            (caption,) = re.findall(r"<caption>(.*?)</caption>", table)
            headings = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
            tables[html.unescape(caption)] = [html.unescape(heading) for heading in headings]
    return tables
