"""Corrections of a raw data set, whatever its source: a CSV that drops pictures or gives them another label.

    key,action,label
    bird_17,drop,
    bird_18,relabel,Warbling Vireo
    bird_19,keep,

Further columns are for people. `fgvc audit` writes such a file; everything uncertain stands as `keep` in it.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from shards.cells import unquoted
from shards.sample import RawDataset
from shards.sources.problems import Problems
from shards.sources.tables import read_csv

COLUMNS = ["key", "action", "label"]
ACTIONS = ("keep", "drop", "relabel")


def corrected(raw: RawDataset, file: Path) -> RawDataset:
    """The data set with the corrections of `file`; `extra` says how many there were.

    Raises UserError, naming everything found: keys, actions and classes that are not there, pictures with two
    different corrections.
    """
    problems = Problems(file, "Correct these lines, or make the file again: fgvc audit.")
    wanted = _read(file, raw, problems)
    problems.check()
    samples, counts = [], Counter[str]()
    for sample in raw.samples:
        label = wanted.get(sample.key, sample.label)
        counts["dropped"] += label is None
        counts["relabelled"] += label not in (None, sample.label)
        if label is not None:
            samples.append(replace(sample, label=label))
    if not any(counts.values()):
        return raw
    return replace(raw, samples=tuple(samples), extra=raw.extra | {"corrections": dict(counts)})


def _read(file: Path, raw: RawDataset, problems: Problems) -> dict[str, int | None]:
    """Key -> its new label, None for one that is dropped; of those that change only."""
    keys = {sample.key for sample in raw.samples}
    labels = {name: label for label, name in enumerate(raw.classes)}
    wanted: dict[str, int | None] = {}
    for where, row in read_csv(file, COLUMNS, problems):
        key, action, name = unquoted(row["key"]), row["action"].lower() or "keep", unquoted(row["label"])
        if key not in keys:
            problems.add("no such picture", where)
        elif action not in ACTIONS:
            problems.add(f"no such action ({', '.join(ACTIONS)})", f"{where} {ascii(action)[:40]}")
        elif action == "relabel" and name not in labels:
            problems.add("no such class", f"{where} {ascii(name)[:80]}")
        elif action != "keep":
            new = labels[name] if action == "relabel" else None
            if wanted.setdefault(key, new) != new:
                problems.add("two different corrections", where)
    return wanted
