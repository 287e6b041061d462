"""Where the repository is: configurations, scripts and catalogues are read from it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def user_cache() -> Path:
    """Return the user's folder for what can be made again: $ANPROMPT_CACHE or ~/.cache/anprompt."""
    return Path(os.environ.get("ANPROMPT_CACHE") or "~/.cache/anprompt").expanduser()
