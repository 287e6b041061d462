"""The parser of commands."""

import argparse
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """argparse, with misspelt flags answered in one line as all bad input is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the flags are listed; exit status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")
