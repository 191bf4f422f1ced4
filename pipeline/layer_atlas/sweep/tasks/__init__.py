"""The kinds of tasks that a worker does: optimization, dataset statistics, examples."""
