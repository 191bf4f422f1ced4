"""What is written in the documentation, taken out of it to be tried."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_ATLAS = ("./scripts/atlas", "atlas")


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Every call of `atlas` in the blocks of shell of a page, as its arguments."""
    found = []
    for line in _whole_lines("\n".join(blocks(path, "bash"))):
        words = shlex.split(line, comments=True)
        start = next((i for i, word in enumerate(words) if word in _ATLAS), None)
        if start is not None:
            found.append(_until_the_shell_goes_on(words[start + 1 :]))
    return found


def _whole_lines(shell: str) -> list[str]:
    """Lines of shell, each with those that go on with it: behind a backslash, or within quotes."""
    lines: list[str] = []
    for line in shell.replace("\\\n", " ").splitlines():
        if lines and lines[-1].count("'") % 2:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _until_the_shell_goes_on(words: list[str]) -> list[str]:
    """The arguments before what the shell does with the output."""
    end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", "&")), len(words))
    return words[:end]
