"""The content of a sweep: targets, jobs, shards, and the plan, with their labels.

Everything here is pure: no torch, no files, except for reading the versions of this process.
"""
