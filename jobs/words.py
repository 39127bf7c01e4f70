"""Reading a command's words: argparse, with mistakes in one line as everywhere else."""

import argparse
from typing import NoReturn

from shards.errors import DataError


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises DataError where argparse prints a usage block and exits."""

    def error(self, message: str) -> NoReturn:
        raise DataError(f"{message}; see {self.prog} --help")
