"""Names as people and file systems spell them: found again under another Unicode form, case or blanks."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from shards.sources.problems import Problems

_WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "valset", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "testset", "holdout"),
}
SPLIT_WORDS = {word: split for split, words in _WORDS.items() for word in words}
_FILLERS = {"set", "data", "split", "images", "imgs", "jpegimages", "part"}


def nfc(name: str) -> str:
    """The composed Unicode form: macOS stores é as two characters, nearly everything else as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def loose(name: str) -> str:
    """`name` without what people vary: Unicode form, case, blanks and underscores, and without what nobody sees."""
    if not name.isascii():
        name = "".join(c for c in name if unicodedata.category(c) != "Cf")  # zero-width spaces, soft hyphens, marks
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


class Names:
    """Finds names by another spelling: as it is, in the same Unicode form, then by `loose`."""

    def __init__(self, names: Iterable[str]) -> None:
        self.tables: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list), defaultdict(list))
        for name in dict.fromkeys(names):
            for table, form in zip(self.tables, (name, nfc(name), loose(name)), strict=True):
                table[form].append(name)

    def find(self, name: str) -> list[str]:
        """The names it may mean: none, one, or several that differ only by what `loose` leaves out."""
        for table, form in zip(self.tables, (name, nfc(name), loose(name)), strict=True):
            if form in table:
                return table[form]
        return []

    def ambiguous(self) -> list[list[str]]:
        """Groups of names that `loose` cannot tell apart."""
        return [group for group in self.tables[2].values() if len(group) > 1]


def note_ambiguous(names: Iterable[str], what: str, problems: Problems) -> None:
    """Note names of one kind (`what`) that differ only by case, blanks, Unicode form or invisible characters."""
    for group in Names(names).ambiguous():
        problems.add(f"{what} that differ only by case, blanks or Unicode form", " and ".join(map(repr, group)))


def split_of_folder(name: str) -> str:
    """train of Train, training_set or train2017; "" of names that mean anything else too."""
    words = _words(name)
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 and set(words) <= set(SPLIT_WORDS) | _FILLERS else ""


def split_in_name(name: str) -> str:
    """train of instances_train2017; "" where the name says no split, or two."""
    found = {SPLIT_WORDS[word] for word in _words(name) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else ""


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", nfc(name).casefold())
