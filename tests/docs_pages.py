"""What is written in the documentation, taken out of it to be tried."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_ATLAS = ("./scripts/atlas", "atlas")

_SHORT = {"objectives": "run", "figures": "figure"}
"""Pages whose pictures stand below the settings that made them, and the command that took these."""


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Every call of `atlas` on a page, as its arguments."""
    return _in_full(path) + _in_short(path)


def _in_full(path: Path) -> list[list[str]]:
    found = []
    for line in _whole_lines("\n".join(blocks(path, "bash"))):
        words = shlex.split(line, comments=True)
        start = next((i for i, word in enumerate(words) if word in _ATLAS), None)
        if start is not None:
            found.append(_until_the_shell_goes_on(words[start + 1 :]))
    return found


def _in_short(path: Path) -> list[list[str]]:
    if path.stem not in _SHORT:
        return []
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    settings = re.findall(r"^ {4}(\S.*=.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [[_SHORT[path.stem], *shlex.split(line)] for line in settings]


def _whole_lines(shell: str) -> list[str]:
    """Lines of shell, each with its continuations: after a backslash, or within quotes.

    A line break within quotes stays, as in a shell: Hydra refuses it.
    """
    lines: list[str] = []
    for line in shell.replace("\\\n", "").splitlines():
        if lines and lines[-1].count("'") % 2:
            lines[-1] += "\n" + line
        else:
            lines.append(line)
    return lines


def _until_the_shell_goes_on(words: list[str]) -> list[str]:
    """The arguments before what the shell does with the output."""
    end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", "&")), len(words))
    return words[:end]
