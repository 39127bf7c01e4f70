"""fgvc serve: a local page where a picture is dropped and the answer shown, with what it rests on.

    fgvc serve cub50_lite0                          http://127.0.0.1:8765
    curl --data-binary @bird.jpg http://127.0.0.1:8765/predict          the same as JSON; ?why=1, ?box=x0,y0,x1,y1
    fgvc serve RUN --host 10.0.0.7 --port 9000      for other machines: asks for the token that is printed at the start
    fgvc serve RUN --host 0.0.0.0 names='[gpu3.example.org]'

Uploads only, 10 MB and 40 megapixels at most, kept in memory and forgotten. FGVC_SERVE_TOKEN sets the token, and
has this machine asked for it too. There is no encryption: on a network that others use, reach it through
ssh -L 8765:127.0.0.1:8765 instead.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from fgvc.use.find import find_weights
from jobs.config import describe, load
from jobs.registry import task_module
from jobs.words import Parser
from shards.errors import UserError
from shards.options import option

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Config:
    """Where the page is, and how much is asked at once."""

    host: str = option("127.0.0.1", "address to listen at; any but this machine's own asks for a token")
    port: Annotated[int, Ge(0), Le(65535)] = option(8765, "port (0: any that is free)")
    names: list[str] = option([], "names under which other machines reach it (empty: the host itself)")
    queue: Annotated[int, Ge(0)] = option(8, "pictures that may wait; more are turned away")
    timeout: Annotated[float, Gt(0)] = option(30.0, "seconds that an answer may take")
    detector: str = option("", "a run of fgvc detect, or its weights, that finds the boxes to crop by")
    why: bool = option(True, "offer what an answer rests on")
    device: Literal["", "cpu", "cuda"] = option("", "cpu, cuda (empty: a GPU where there is one)")
    runs_dir: str = option("runs", "folder of all runs")


def main(words: list[str]) -> int:
    """`fgvc serve WORDS`, until a signal ends it. Raises UserError for a user's mistake."""
    if {"-h", "--help"} & set(words):
        print(f"{(__doc__ or '').strip()}\n\nsettings (key: type = default):\n{describe(Config)}")
        return 0
    config, run = read(words)
    return int(task_module("serve").run(config, find_weights(run, config.runs_dir)))


def read(words: list[str]) -> tuple[Config, str]:
    """The settings and the run that words name; nothing is opened. Raises UserError as `main` does."""
    parser = Parser("fgvc serve", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--host")
    parser.add_argument("--port")
    found = parser.parse_intermixed_args(words)
    given = [f"{key}={value}" for key in ("host", "port") if (value := getattr(found, key)) is not None]
    runs = [word for word in found.words if "=" not in word]
    config = load(Config, None, [*(word for word in found.words if "=" in word), *given])
    if len(runs) != 1:
        raise UserError("which classifier? fgvc serve RUN; see fgvc serve --help")
    if config.host in ("0.0.0.0", "::") and not config.names:
        raise UserError(f"host={config.host}: listens under every name; say which are yours: names='[HOST.DOMAIN]'")
    return config, runs[0]
