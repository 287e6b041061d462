"""The commands around training: ``python -m anprompt COMMAND``, or ``anprompt COMMAND`` installed.

Each command is a module of ``anprompt/commands`` (``_`` for ``-``) with ``main(argv) -> exit
status``; it is imported only when it is called.
"""

import importlib
import sys
from collections.abc import Sequence

from common import cli
from common.errors import UsageError
from common.names import nearest

COMMANDS = {
    "run": "run one method's part of a protocol: what scripts/METHOD/*.sh do",
    "sweep": "run a protocol over methods, data sets, shots and seeds",
    "reproduce": "a sweep and its table: what scripts/anprompt/reproduce.sh does",
    "ablations": "ANPrompt with one change at a time, and the table",
    "compare": "methods on a folder of your own images: table and report",
    "demo": "four methods on Shapes, the table, noise and the report: scripts/demo.sh",
    "table": "tables of finished runs: text, Markdown, CSV, LaTeX",
    "pack": "finished runs in one small file, for others' tables",
    "report": "finished runs as one HTML page",
    "anomaly-report": "anomaly detection as one HTML page: maps, cases, curves",
    "robustness": "evaluate trained models under noise in text and image",
    "robustness-report": "all base-to-new models of OUTPUT under noise, and the report",
    "predict": "classify images with a trained model",
    "calibrate": "fit confidences; a run's calibration before and after",
    "interpret": "the words nearest to a learned context",
    "export": "write a trained model as safetensors, ONNX or a torch.export program",
    "data": "fetch, unpack and check data sets",
    "methods": "what each method learns, its paper, licence and protocols",
    "backbones": "which CLIPs run with which methods, and why others do not",
    "cache": "image features kept for all methods: show, limit, clear",
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
    name, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    return cli.run(lambda rest: _dispatch(name, rest), f"anprompt {name}".strip(), rest)


def _dispatch(name: str, arguments: list[str]) -> int:
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        hint = f"; did you mean {near[0]}?" if near else ""
        what = f"no command {name!r}" if name else "name a command"
        raise UsageError(f"{what}{hint} (--help lists the commands)")
    module = name.replace("-", "_")
    status: int = importlib.import_module(f"anprompt.commands.{module}").main(arguments)
    return status


if __name__ == "__main__":
    cli.leave(main())
