"""The judges of fidelity: pure functions of pixels, responses and features, and what feeds them.

`docs/fidelity.md` has the formula and the limits of each.
"""
