"""Photographs from outside: listed, read as untrusted data, cut as a network sees them, mapped."""
