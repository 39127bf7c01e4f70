"""fgvc configs: the configs that come with fgvc: what each is for, and what it needs.

fgvc configs                 all of them
fgvc configs classify        those of one command
fgvc classify photos         a shipped config by its name, from any folder
"""

import itertools
import re
from pathlib import Path

from jobs.config import SHIPPED, read_yaml
from shards.errors import UserError


def main(words: list[str]) -> int:
    """`fgvc configs WORDS`. Raises UserError for a command that has none."""
    if any(word in ("-h", "--help", "help") for word in words):
        print((__doc__ or "").strip())
        return 0
    folders = [folder.name for folder in sorted(SHIPPED.iterdir()) if folder.is_dir()]
    for word in words:
        if word not in folders:
            raise UserError(f"{word}: no configs of that kind; there are {', '.join(folders)}")
    for folder in words or folders:
        for file in sorted((SHIPPED / folder).glob("*.yaml")):
            needs = ", ".join(needs_of(file)) or "nothing"
            print(f"{folder + '/' + file.stem:34}{needs}\n    {purpose_of(file)}")
    print(f"\nin {SHIPPED}; a GPU is named where the file says so, variables are paths that you set")
    return 0


def purpose_of(file: Path) -> str:
    """The first sentence of the comment that a config begins with."""
    lines = []
    for line in _comment(file.read_text()):
        if line.startswith("   "):
            break
        lines.append(line.strip())
    return re.split(r"(?<=\.) ", " ".join(lines), maxsplit=1)[0].rstrip(".")


def needs_of(file: Path) -> list[str]:
    """What a config cannot do without: Slurm, a GPU, a download, paths in environment variables."""
    if file.parent.name == "clusters":
        return ["Slurm"]
    text = file.read_text()
    comment = " ".join(_comment(text))
    needs = ["a GPU"] if "GPU" in re.sub("no GPU|GPU is not needed", "", comment) else []
    values = read_yaml(file)
    model, key = values.get("model", {}), "backbone_weights" if "generator" in values else "weights"
    if model and model.get(key, "hub") == "hub" and model.get("name") not in ("dcgan", "biggan", "biggan_deep"):
        needs.append(f"a download (model.{key}=hub)")
    variables = [f"${name}" for name in dict.fromkeys(re.findall(r"\$\{([A-Z][A-Z0-9_]*)\}", text))]
    rest = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    if file.parent.name == "pipeline":  # its stages set what their configs leave open
        return [*needs, *(["a download"] if "hub" in comment else []), *variables]
    others = [] if file.parent.name == "compare" and variables else re.findall(r"configs/\w+/\w+\.yaml", rest)
    of_others = [need for name in others for need in needs_of(SHIPPED.parent / name)]
    return list(dict.fromkeys([*needs, *of_others, *variables]))


def _comment(text: str) -> list[str]:
    """The lines of the comment at the top, without their signs."""
    return [
        line.removeprefix("#") for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    ]
