"""The sub-commands of ``python -m anprompt``."""
