"""The commands that README, docs, docstrings and configs show, and a check of each as the command line makes it.

A command is checked up to where it would read data, ask a server or start something: configs are resolved and checked
(`--print-config`, on a cluster `--dry-run`), the words of other commands taken apart by their `read`. Words in capitals
stand for what a reader puts there and are replaced by what is here; `...` and `key=value` stand for words left out.
"""

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from jobs.cli import main
from jobs.config import SHIPPED
from jobs.registry import COMMANDS, JOBS, command_module

ROOT = Path(__file__).parents[2]
OR = "\0"  # between the choices of a word such as up|down
STARTS = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?fgvc (?![\w -]+: )|^sbatch slurm/job\.sbatch |^eval |^for NAME in ")
BEFORE = re.compile(r"^(?:fgvc|sbatch slurm/job\.sbatch) ")
MENTION = re.compile(r"fgvc( [a-z][a-z0-9_-]*)+")  # a command's name alone, in backticks
LEFT_OUT = ("", "...", "key=value")
STANDS_FOR = {  # what a word in capitals, on its own, stands for; of a folder or file the name does
    "CLUSTER": "h100", "N": "2", "SOURCE": "image_folder", "COMMAND": "classify", "JOB": "classify",
    "CONFIG": "field_guide", "NAME": "field_guide", "WORDS": "--help",
}  # fmt: skip


@dataclass(frozen=True)
class Documented:
    """A command as it is shown, and where."""

    place: str
    shown: str

    @property
    def command(self) -> str:
        return BEFORE.sub("", self.shown).split()[0]


def documented() -> list[Documented]:
    """Every command that is shown, place by place."""
    return [
        Documented(str(path.relative_to(ROOT)), shown)
        for path, lines in _texts()
        for line in [*_code(path, lines), *_quoted("\n".join(lines))]
        for shown in _commands(line)
    ]


def problem_of(found: Documented, folder: Path) -> str:
    """What the command line says against a command; empty where nothing. folder: the working folder, made for this."""
    for words in variants(found.shown):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = _check(words, folder)
            except SystemExit as left:  # argparse's --help
                code = left.code or 0
            except Exception as error:
                code = f"{type(error).__name__}: {error}"
        if code:
            return f"{found.place}: {found.shown}\n    {' '.join(words)}: {code if code != 2 else said.getvalue()}"
    return ""


def _check(words: list[str], folder: Path) -> int | str:
    name, *rest = words
    if name not in COMMANDS or {"-h", "--help"} & set(rest):
        return main(words)
    if name in JOBS or name in ("compare", "sweep", "pipeline", "find-lr"):
        if rest[:1] == ["agent"]:
            return _reads("experiments.sweep_agent", rest[1:])
        on = rest[rest.index("--on") + 1] if "--on" in rest else "debug"
        return main([name, *_files(name, rest, folder), "--print-config" if on == "debug" else "--dry-run"])
    if name == "status":
        for word in rest:
            (folder / word).mkdir(parents=True, exist_ok=True)
            (folder / word / "identity.json").write_text("{}")
    if name in ("status", "configs", "completion", "doctor"):
        return main(words)
    return _reads(name, rest)


def _reads(name: str, words: list[str]) -> int:
    from shards.errors import UserError
    from slurm.errors import SlurmError

    try:
        command_module(name).read(words)
    except (UserError, SlurmError) as error:
        print(error)
        return 2
    return 0


def _files(name: str, words: list[str], folder: Path) -> list[str]:
    """The words, with folders and files of the reader's own made in the working folder."""
    made = []
    for word in words:
        if name == "sweep" and word == "FILE":
            word = "field_guide"
        elif name == "pipeline" and word == STANDS_FOR["CONFIG"]:
            word = "demo"
        elif re.fullmatch(r"(?!configs/)[\w/]+\.yaml", word):
            job = next((word.partition("=")[2] for word in words if word.startswith("job=")), "classify")
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
            (folder / word).write_text((SHIPPED / job / "field_guide.yaml").read_text())
        elif name == "evaluate" and word == STANDS_FOR["CONFIG"]:  # none is shipped
            word = "mine.yaml"
            (folder / word).write_text("weights: model.safetensors\ndata: {shards: data}\n")
        elif name == "compare" and word == STANDS_FOR["CONFIG"]:
            word = "configs/classify/field_guide.yaml"
        elif hasattr(command_module(name), "FOLDER") and "=" not in word and not word.startswith("-"):
            (folder / word).mkdir(parents=True, exist_ok=True)
        made.append(word)
    return made


def variants(shown: str) -> Iterator[list[str]]:
    """The words after `fgvc` of every form that a command is shown in, with placeholders replaced."""
    lexer = shlex.shlex(re.sub(r"(?<=\S)\|(?=\S)", OR, BEFORE.sub("", shown)), posix=True, punctuation_chars="|<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = [_without_brackets(word) for word in lexer]
    start = next((index for index, word in enumerate(words) if word in "|<>" and words[index + 1][:2] != "--"), None)
    parts = [[]] if start == 0 else _split(words[: start if start is not None else len(words)], "|")
    head = parts[0][: next((i for i, word in enumerate(parts[0]) if i and word.startswith("--")), None)]
    for part in [parts[0], *([*head, *part] for part in parts[1:])]:
        for choice in product(*(word.split(OR) for word in part)):
            yield [_filled(word) for word in choice if word not in LEFT_OUT]


def _without_brackets(word: str) -> str:
    """A word that may be left out, of [WORD] or [several words], as if it were not; lists keep their brackets."""
    if word.startswith("["):
        word = word[1:]
    return word[:-1] if word.endswith("]") and word.count("]") > word.count("[") else word


def _filled(word: str) -> str:
    """A word with what it stands for; CONFIG... is one of several."""
    key, sign, value = word.rpartition("=")
    if key == "weights" and re.fullmatch(r"\w+|\.\.\.", value):  # a run's name; none is there
        return "weights=model.safetensors"
    value = value if sign and value == "..." else re.sub(r"\.\.(\.|\d+)$", "", value)  # data.fold=0..4: its first
    return f"{key}{sign}{STANDS_FOR.get(value, value)}"


def _split(words: Iterable[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        parts.append([]) if word == at else parts[-1].append(word)
    return parts


def _texts() -> Iterator[tuple[Path, list[str]]]:
    """The files that tell a reader what to run: their prose, a docstring, the comment at the top."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name != "log.md":
            yield path, path.read_text().splitlines()
    for path in sorted((ROOT / "jobs").rglob("*.py")):
        tree = ast.parse(path.read_text())
        texts = [ast.get_docstring(tree) or ""]
        for node in tree.body:  # HELP and EXAMPLES
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                texts.append(str(node.value.value))
        yield path, "\n".join(texts).splitlines()
    for path in sorted(SHIPPED.rglob("*.yaml")):
        lines = path.read_text().splitlines()
        yield path, [line[1:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]


def _code(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Lines that are commands."""
    indent = {".md": "    ", ".yaml": "  ", ".py": ""}[path.suffix]
    return (line.strip() for line in lines if line.startswith(indent) and STARTS.match(line.strip()))


def _quoted(text: str) -> Iterator[str]:
    """Commands in backticks, over several lines too."""
    for inner in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        line = " ".join(inner.split())
        if STARTS.match(line):
            yield f"{line} --help" if MENTION.fullmatch(line) else line


def _commands(line: str) -> Iterator[str]:
    """The fgvc commands of a line of shell; what stands after two blanks explains it."""
    line = re.split(r"\s{2,}", line.removeprefix("$ "))[0].replace(".venv/bin/", "")
    if loop := re.match(r"for NAME in (.+?): (.+)", line):
        for name in loop[1].split():
            yield from _commands(loop[2].replace("NAME", name))
        return
    if inner := re.search(r"\$\((fgvc [^)]+)\)", line):
        line = inner[1]
    for part in re.split(r"; | && ", line):
        if STARTS.match(part.strip()):
            yield part.strip()
