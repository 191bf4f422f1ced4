"""Executors: where workers run. They know command lines and exit codes, nothing of torch."""
