"""Show, limit or clear the image features of frozen CLIP that are kept for all methods.

    python -m anprompt cache                    where they are, how many, how much of the limit
    python -m anprompt cache --limit 500MB      keep no more; what was used longest ago goes first
    python -m anprompt cache --clear            remove them

They are in $ANPROMPT_CACHE (else ~/.cache/anprompt) and can be removed at any time: what is missing
is computed anew, with the same result. TEST.KEEP_FEATURES False neither reads nor keeps any.
"""

from __future__ import annotations

import re

from common.cli import CommandParser
from common.errors import UsageError
from common.store import feature_store

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str) -> int:
    """Return a number of bytes.

    >>> parse_size("500MB"), parse_size("1.5 GiB"), parse_size("0")
    (500000000, 1610612736, 0)

    Raises:
        UsageError: it is none.
    """
    units = {name.casefold(): factor for name, factor in {**UNITS, **BINARY}.items()}
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().casefold())
    if found is None or found[2] not in units:
        raise UsageError(f"--limit {text!r}: takes a size such as 500MB or 4GB; 0 keeps nothing")
    return int(float(found[1]) * units[found[2]])


def shown(size: int) -> str:
    """Return a number of bytes in words.

    >>> shown(1_234_567), shown(12)
    ('1.2 MB', '12 bytes')
    """
    for unit, factor in reversed(UNITS.items()):
        if unit and size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser(description=__doc__, prog="anprompt cache")
    parser.add_argument("--clear", action="store_true", help="remove all kept features")
    parser.add_argument("--limit", metavar="SIZE", help="bytes that may be kept: 500MB, 4GB, 0")
    args = parser.parse_args(argv)
    store = feature_store()
    if args.limit is not None:
        store.set_limit(parse_size(args.limit))
    limit = store.limit
    if args.clear:
        print(f"Removed {store.clear():,} pieces.")
    count, size = store.figures()
    print(f"{store.folder}: {count:,} pieces, {shown(size)} of at most {shown(limit)}")
    return 0
