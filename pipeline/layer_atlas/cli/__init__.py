"""The command line: one short function per command, the tables they print, and their help."""
