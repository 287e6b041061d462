"""A look into a pickle before it is read, without reading it.

An unpickler that knows the names it is asked for runs no foreign code, but a damaged or hostile
file can still name a place in its memory of objects, or announce a length, that takes all memory of
the machine. Neither can be larger than the file itself.
"""

import pickle
import pickletools


def check_pickle(content: bytes) -> None:
    """Refuse a pickle that asks for more than its size explains.

    Raises:
        Exception: of any kind, where it is damaged.
    """
    for opcode, argument, _ in pickletools.genops(content):  # refuses lengths beyond the end
        if opcode.name.endswith("PUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it keeps {argument:,} objects in {len(content):,} bytes")
