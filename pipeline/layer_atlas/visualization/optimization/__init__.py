"""Batched gradient ascent, and the statistics of the resulting images."""
