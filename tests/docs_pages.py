"""What is written in the documentation, taken out of it to be tried."""

import re
import shlex
from pathlib import Path

from pipeline.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """Every `atlas COMMAND` in the blocks of shell of a page: the command, its arguments."""
    shell = "\n".join(blocks(path, "bash")).replace("\\\n", " ")
    words = (shlex.split(line, comments=True) for line in _whole_lines(shell))
    found = (line[line.index(name) + 1 :] for line in words for name in ATLAS if name in line)
    return [(first, rest) for first, *rest in found if first in COMMANDS]


ATLAS = ("./scripts/atlas", "atlas")


def _whole_lines(shell: str) -> list[str]:
    """Lines of shell, those whose quotes go on in the next joined with it."""
    lines: list[str] = []
    for line in shell.splitlines():
        if lines and lines[-1].count("'") % 2:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines
