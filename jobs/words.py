"""Reading a command's words: argparse, with mistakes in one line as everywhere else."""

import argparse
from typing import NoReturn

from shards.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises UserError where argparse prints a usage block and exits."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse(command: str, words: list[str], *flags: str) -> argparse.Namespace:
    """Options of a command that reads files and key=value words: words, help, on, dry_run, print_config, `flags`."""
    parser = Parser(f"fgvc {command}", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--on", default="")
    for flag in ("--dry-run", "--print-config", *flags):
        parser.add_argument(flag, action="store_true")
    return parser.parse_intermixed_args(words)
