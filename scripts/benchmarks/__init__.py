"""What `scripts/benchmark.py` is made of: the systems compared, the judging, the report."""
