"""Where the repository is: configurations, scripts and catalogues are read from it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
