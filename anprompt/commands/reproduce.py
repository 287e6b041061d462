"""Compute a table: run what is missing of a protocol (as anprompt sweep does), then print it.

The table holds all runs of the protocol in OUTPUT and is also written to OUTPUT/PROTOCOL.md; what
is missing is shown as missing.
"""

import sys

from anprompt.commands import sweep, table


def main(argv: list[str]) -> int:
    """Run ``anprompt reproduce``; returns the exit status."""
    args, options = sweep.parse(argv, sweep.make_parser("reproduce", __doc__))
    status = sweep.run(args, options)
    # Bad input or an interruption: no table. Failed runs (1) are missing in it.
    if status > 1 or args.environment.is_dry_run:
        return status
    output = args.environment.output
    file = f"{output}/{args.protocol}.md"
    print(flush=True)
    table.main([output, "--protocol", args.protocol, "--output", file])
    sys.stdout.flush()
    print(f"\nThe table is in {file}.", file=sys.stderr)
    return status
