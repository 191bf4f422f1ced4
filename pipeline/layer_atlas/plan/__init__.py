"""What a sweep consists of: targets, jobs, shards, and the plan. Pure: no torch, no files."""
