"""Reading a command's words: argparse, with mistakes in one line as everywhere else."""

import argparse
from typing import NoReturn

from shards.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises UserError where argparse prints a usage block and exits."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
