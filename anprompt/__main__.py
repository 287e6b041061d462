"""Run what stands around training: ``python -m anprompt COMMAND`` (``anprompt COMMAND`` if installed).

Each command is a module of ``anprompt/commands`` with ``main(argv) -> exit status``; it is imported
only when it is called.
"""

import importlib
import sys
from collections.abc import Sequence

from common import cli
from common.names import nearest

COMMANDS = {
    "sweep": "run a protocol over methods, data sets, shots and seeds",
    "table": "tables of finished runs: text, Markdown, CSV, LaTeX",
    "report": "finished runs as one HTML page",
    "robustness": "evaluate trained models under noise in text and image",
    "predict": "classify images with a trained model; export it",
    "data": "fetch, unpack and check data sets",
    "pretrain": "how the bundled small CLIP was made",
}


def usage() -> str:
    """Return the text of ``--help``."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: python -m anprompt COMMAND ...\n\n"
        f"{listed}\n\n"
        "python -m anprompt COMMAND --help says more. Training is train.py's, CoOp's command line."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        cli.prepare_streams()
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        cli.prepare_streams()
        near = nearest(name, COMMANDS)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(
            f"anprompt: error: no command {name!r}{hint} (--help lists the commands)",
            file=sys.stderr,
        )
        return 2

    def command(arguments: list[str]) -> int:
        return importlib.import_module(f"anprompt.commands.{name}").main(arguments)

    return cli.run(command, f"anprompt {name}", rest)


if __name__ == "__main__":
    sys.exit(main())
