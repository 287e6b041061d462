"""What runs around training: configuration of runs, their folders, tables of their results."""
