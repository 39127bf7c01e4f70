"""Typed configs: dataclass <- YAML file <- key=value words, with one-line errors, help text and a hash."""

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from jobs.registry import command_module
from shards.errors import UserError
from shards.paths import address, is_remote
from slurm.profile import KEYS

C = TypeVar("C")
DOWNLOAD = ("download", "mirror")  # settings of a build: where raw data come from, which are compared with their sha256
SHIPPED = Path(__file__).resolve().parents[1] / "configs"
YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values, several times as fast


def load(kind: type[C], path: str | Path | None = None, overrides: list[str] | None = None) -> C:
    """A validated `kind` (a dataclass) from its defaults, a YAML file and `a.b=value` words, the last one winning.

    Raises UserError with one line that names the key, the value and the nearest valid one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_yaml(Path(path))
        _check_keys(kind, values, str(path))
    for word in overrides or []:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise UserError(f"'{word}': settings are written key=value, such as seed=1")
        declared = _field_type(kind, key, f"'{word}'")
        _set(values, key, text if declared is str else _parse(text, word))
    given = {word.partition("=")[0] for word in overrides or []}
    return from_dict(kind, values, str(path) if path else "command line", given)


def load_job(name: str, path: str | Path | None = None, overrides: list[str] | None = None) -> Any:
    """The config of a job, with what its command checks before anything is read. Raises UserError as `load` does."""
    module = command_module(name)
    config = load(module.Config, path, overrides)
    check_addresses(config)
    if hasattr(module, "check"):
        module.check(config)
    return config


def check_addresses(config: Any) -> None:
    """Raise UserError for addresses that hold a login, before a config is shown, logged or submitted."""
    for group in ("data", "synthetic"):
        settings = getattr(config, group, None)
        shards = getattr(settings, "shards", "")
        if is_remote(shards):
            address(shards, f"{group}.shards")
        for key, value in dict(getattr(settings, "build", {}) or {}).items():
            if key.split(".")[-1] == "mirror" and value:
                address(str(value), f"{group}.build.{key}")


def load_command(words: Sequence[str]) -> Any:
    """The config of `fgvc JOB FILE key=value...`, as `load_job` makes it."""
    job, file, *settings = words
    return load_job(job, file, settings)


def trains(kind: type) -> bool:
    """Whether runs of this config train on a part of the data and can measure on a fold held out of it."""
    return {"evaluate_test", "data.folds", "train.batch"} <= {key for key, _ in walk(kind)}


def measures(kind: type) -> bool:
    """Whether runs of this config measure a weights file on images that are drawn by seed, such as fgvc attack."""
    return {"weights", "split", "seed", "images", "data.folds"} <= {key for key, _ in walk(kind)}


def held_out_only(kind: type) -> dict[str, str]:
    """The settings that keep a run of this config from the test split."""
    return {"evaluate_test": "false"} if trains(kind) else {"split": "held_out"}


def from_dict(kind: type[C], values: dict[str, Any], where: str, given: Collection[str] = ()) -> C:
    """A validated `kind` from nested plain values. given: keys that the command line set, whatever `where` is.

    Raises UserError as `load` does.
    """
    from pydantic import ValidationError

    _check_keys(kind, values, where)
    try:
        return _validator(kind).validate_python(values)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(str(first["input"]), _choices(kind, key))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "list_type":
            hint = f"; write {key}='[{first['input']}]'"
        source = "command line" if key in given else where
        raise UserError(f"{source}: {key}={first['input']!r}: {message}{hint}") from None


@functools.lru_cache(256)
def _validator(kind: type) -> Any:
    """pydantic's validator of a dataclass; made once, because comparisons and sweeps load hundreds of configs."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


@functools.lru_cache(256)
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with their limits."""
    return typing.get_type_hints(kind, include_extras=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values of a config (tuples as lists), such as YAML holds."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def hashed(config: Any) -> dict[str, Any]:
    """`a.b` -> value of every field that can change a result."""
    values = flatten(to_dict(config), type(config))
    if isinstance(build := values.get("data.build"), dict):
        values["data.build"] = {key: value for key, value in build.items() if key.split(".")[-1] not in DOWNLOAD}
    return {key: values[key] for key, leaf in walk(type(config)) if leaf.metadata.get("affects_result", True)}


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted key as `key=value` words. JSON is YAML too; text stays as it is, since a word like
    model.weights=none needs no quotes."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def identity(config: Any, parts: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """`hashed` of a config and of its defaults. parts: configs of other jobs' runs that its run is made of, by name;
    their settings count as its own."""
    own, defaults = hashed(config), hashed(type(config)())
    for name, part in (parts or {}).items():
        own |= {f"{name}.{key}": value for key, value in hashed(part).items()}
        defaults |= {f"{name}.{key}": value for key, value in hashed(type(part)()).items()}
    return own, defaults


def walk(kind: type, prefix: str = "", affects: bool = True) -> Iterator[tuple[str, dataclasses.Field]]:
    """Every leaf field of a nested dataclass as (dotted key, field)."""
    hints = _hints(kind)
    for leaf in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[leaf.name]):
            yield from walk(typing.cast(type, hints[leaf.name]), f"{prefix}{leaf.name}.")
        else:
            yield prefix + leaf.name, leaf


def describe(kind: type) -> str:
    """A block for each field: key, type, default and meaning."""
    rows = []
    for key, leaf in walk(kind):
        hint = _field_type(kind, key, key)
        default = leaf.default_factory() if leaf.default_factory is not dataclasses.MISSING else leaf.default
        shown = "" if default is dataclasses.MISSING else f" = {json.dumps(default, default=str)}"
        rows.append(f"  {key}: {type_name(hint)}{shown}\n        {leaf.metadata.get('help', '')}")
    return "\n".join(rows)


def type_name(hint: Any) -> str:
    """A type as people write it: float, fast | slow, list[str]."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(str(arg) for arg in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else type_name(arg) for arg in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        base, *limits = typing.get_args(hint)
        return " ".join([type_name(base), *(_limit(limit) for limit in limits)])
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")


def _limit(limit: Any) -> str:
    """An annotated_types limit as people write it: >= 0."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    parts = [f"{sign} {getattr(limit, name)}" for name, sign in signs.items() if getattr(limit, name, None) is not None]
    return " ".join(parts) or str(limit)


def flatten(values: dict[str, Any], kind: type, prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted keys, down to the fields of `kind` (a dict-valued field stays whole)."""
    hints = _hints(kind)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = hints.get(key)
        if isinstance(value, dict) and inner is not None and dataclasses.is_dataclass(inner):
            flat |= flatten(value, typing.cast(type, inner), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def locate(path: Path, folder: str = "") -> Path:
    """A config file as people name it: its path, `configs/...` of this checkout from anywhere, or, of the shipped ones
    in configs/`folder`, the bare name. Raises UserError naming the nearest one of the same kind."""
    if path.is_file():
        return path
    shipped = [SHIPPED.parent / path, *([SHIPPED / folder / f"{path}.yaml"] if folder else [])]
    for file in shipped:
        if not path.is_absolute() and file.is_file():
            return file
    kind = folder or path.parent.name
    stems = sorted({file.stem for home in (path.parent, SHIPPED / kind) for file in home.glob("*.yaml") if kind})
    close = difflib.get_close_matches(path.stem, stems, n=1, cutoff=0.6)
    ending = ".yaml" if path.suffix else ""  # a .yml was meant to be one
    meant = path.with_name(close[0] + ending) if close else path
    if close and meant == path:  # not here, but shipped
        meant = Path(close[0])
    hint = f"; did you mean '{meant}'?" if close else "; fgvc configs lists them"
    raise UserError(f"{path}: no such config file{hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's top-level mapping. Raises UserError when it is missing (naming the nearest) or not readable."""
    path = locate(path)
    try:
        values = yaml.load(path.read_text(), YAML) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise UserError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is made of 'key: value' lines, this is a {type(values).__name__}")
    return values


def _parse(text: str, word: str) -> Any:
    try:
        return yaml.load(text, YAML)
    except yaml.YAMLError:
        raise UserError(f"'{word}': the value is not readable as YAML; quote it for the shell") from None


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def _field_type(kind: type, key: str, where: str) -> Any:
    """The declared type of a dotted key. Raises UserError naming the nearest key when there is none."""
    current: Any = kind
    for part in key.split("."):
        hints = _hints(typing.cast(type, current)) if dataclasses.is_dataclass(current) else {}
        if current is dict or typing.get_origin(current) is dict:
            return Any
        if part not in hints:
            valid = [name for name, _ in walk(kind)]
            of_a_cluster = [] if "." in key else sorted(KEYS)  # beside a job's own settings on a command line
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, [*valid, *of_a_cluster])}")
        current = hints[part]
    return current


def _check_keys(kind: type, values: dict[str, Any], where: str) -> None:
    for key in flatten(values, kind):
        declared = _field_type(kind, key, where)
        if dataclasses.is_dataclass(declared):
            raise UserError(
                f"{where}: '{key}' is a group of settings; set one of them, such as "
                f"{key}.{dataclasses.fields(declared)[0].name}=..."
            )


def _choices(kind: type, key: str) -> list[str]:
    try:
        hint = _field_type(kind, key, key)
    except UserError:
        return []
    hints = [hint, *typing.get_args(hint)]  # a Literal, or one of the choices of `X | None`
    return [str(arg) for kind in hints if typing.get_origin(kind) is typing.Literal for arg in typing.get_args(kind)]


def nearest(word: str, valid: list[str]) -> str:
    """'; did you mean ...?' for the valid word closest to a wrong one, or nothing.

    Of dotted keys the last part decides: train.lr means optim.lr, not train.ema.
    """

    def likeness(name: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, word.rpartition(".")[2], name.rpartition(".")[2]).ratio()
        return last, difflib.SequenceMatcher(None, word, name).ratio()

    best = max(valid, key=likeness, default="")
    last, whole = likeness(best) if best else (0.0, 0.0)
    return f"; did you mean '{best}'?" if last >= 0.6 or (last >= 0.5 and whole > 0.75) else ""
