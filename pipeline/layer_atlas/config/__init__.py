"""The settings of a sweep: one frozen record per group, and Hydra, which composes them.

A module here holds a family of records and nothing that acts on them. `records` is what all of them
are made of, `inputs` the files that they name, `config` the whole, `compose` the command line.
"""
