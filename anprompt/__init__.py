"""What stands around training: runs, protocols, sweeps, tables, the report, evaluation under noise."""

__version__ = "0.2.0"
