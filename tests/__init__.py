"""Tests mirror the package; those of whole runs lie here."""
