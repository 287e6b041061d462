"""Compute a table: run what is missing of a protocol (as anprompt sweep does), then print it.

The table holds all runs of the protocol in OUTPUT and is also written to OUTPUT/PROTOCOL.md; what
is missing is shown as missing. With flags that run nothing here (--status, --print-commands,
--cluster) there is none.
"""

import sys

from anprompt.commands import sweep, table
from common.errors import UsageError


def main(argv: list[str]) -> int:
    """Run ``anprompt reproduce``; returns the exit status."""
    args, options = sweep.parse(argv, sweep.make_parser("reproduce", __doc__))
    status = sweep.run(args, options)
    # Bad input or an interruption: no table. Failed runs (1) are missing in it.
    runs_here = not (args.environment.is_dry_run or args.status or args.print_commands)
    if status > 1 or args.cluster or not runs_here:
        return status
    output = args.environment.output
    file = f"{output}/{args.protocol}.md"
    print(flush=True)
    try:
        table.main([output, "--protocol", args.protocol, "--output", file])
    except UsageError as error:
        if not status:
            raise
        print(f"no table: {error}", file=sys.stderr)  # all runs failed, and have said why
        return status
    sys.stdout.flush()
    print(f"\nThe table is in {file}.", file=sys.stderr)
    return status
