"""A report's page as a test reads it."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What stands in a page: tags with their attributes, the figures, the JSON's values, the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: list[tuple[dict[str, str], str]] = []
        self.values: dict[str, tuple[str, str, str]] = {}  # id -> (run, path, text)
        self.words: list[str] = []
        self._run, self._in = "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append((tag, given))
        self._run = given.get("data-key", self._run)
        self._in = tag
        if tag == "a" and "data-form" in given:
            self.figures.append((given, ""))
        if tag == "span" and "data-path" in given:
            self.values[given["id"]] = (self._run, given["data-path"], "")
            self._in = given["id"]

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "a" and self.figures and not self.figures[-1][1]:
            self.figures[-1] = (self.figures[-1][0], data)
        elif self._in in self.values:
            self.values[self._in] = (*self.values[self._in][:2], data)
        elif self._in not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)
