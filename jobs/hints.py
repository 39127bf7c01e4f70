"""What to run next: the last lines of a command that made something. One place, so that every step leads to another."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

# Words in capitals are the reader's to put in; {names} are known when the command ends.
NEXT = {
    "shards": ("fgvc audit {folder}", "fgvc classify photos data.shards={folder}"),
    "audit": ("fgvc classify photos data.shards={shards}",),
    "classify": (
        "fgvc explain weights={folder}/model.safetensors data.shards={shards}",
        "fgvc attack weights={folder}/model.safetensors data.shards={shards}",
        "fgvc predict PICTURE --run {folder}",
    ),
    "detect": ("fgvc crop detector={folder}/model.safetensors data.shards=SHARDS",),
    "crop": ("fgvc classify photos data.shards={shards} data.crop=square data.boxes={layer}",),
    "find-lr": ("fgvc classify CONFIG optim.lr={rate}",),
    "gan": ("fgvc synthesize weights={folder}/model.safetensors data.shards={shards} out=data/{name}",),
    "synthesize": ("fgvc classify CONFIG synthetic.shards={out} synthetic.ratio=1",),
    "evaluate": ("fgvc attack weights={weights} data.shards={shards}", "fgvc report {folder}"),
    "ensemble": ("fgvc report {folder}",),
    "explain": ("fgvc attack weights={weights} data.shards={shards}", "fgvc report {folder}"),
    "attack": ("fgvc report {folder}", "fgvc classify CONFIG defence.method=trades"),
    "compare": ("fgvc report {folder}",),
    "pipeline": ("fgvc predict PICTURE --run RUN", "fgvc status {folder}"),
    "report": ("fgvc predict PICTURE --run RUN", "fgvc export RUN FOLDER"),
    "export": ("fgvc serve {run}",),
    "weights": ("fgvc classify CONFIG model.name={name} model.weights={file}",),
    "doctor": ("fgvc pipeline demo",),
}


def next_lines(command: str, without: Collection[str] = (), **known: object) -> str:
    """The hint after a command, empty where there is none; `known` are the names that its lines take, `without` the
    commands that would refuse what it made."""
    words = {key: shlex.quote(str(value)) for key, value in known.items()}
    lines = [line.format(**words) for line in NEXT.get(command, ()) if line.split()[1] not in without]
    return "\n".join(f"{'  or: ' if index else 'next: '}{line}" for index, line in enumerate(lines))


def after_run(job: str, config: Any, folder: Path, result: dict[str, Any]) -> str:
    """The hint after a job's run."""
    data = getattr(config, "data", None)
    refusing = set()
    if job == "classify" and (config.model.also or config.model.covariance):
        refusing.add("explain")
    if job in ("classify", "evaluate") and result.get("views", 1) > 1:
        refusing.add("attack")
    hint = next_lines(
        job,
        refusing,
        folder=folder,
        name=config.name,
        shards=(data.shards if data else "") or "SHARDS",
        weights=getattr(config, "weights", ""),
        out=getattr(config, "out", ""),
        layer=result.get("layer", ""),
    )
    return hint + _network(config) if job == "audit" else hint


def _network(config: Any) -> str:
    """The words that name a config's network, where its weights are a file: what is without a connection here will be
    without one there too."""
    if config.model.weights in ("hub", "none"):
        return ""
    return " " + shlex.join([f"model.name={config.model.name}", f"model.weights={config.model.weights}"])
