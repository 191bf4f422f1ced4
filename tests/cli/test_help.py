"""The manual: a page for every command, and examples that would run."""

import re
import shlex

import pytest
from toys import composed

from layer_atlas.cli.commands import COMMANDS, split_words
from layer_atlas.cli.help import PAGES, command_help, overview


def test_every_command_has_its_page() -> None:
    assert list(PAGES) == list(COMMANDS)
    assert all(re.search(rf"\b{command}\b", overview()) for command in COMMANDS)
    assert len(overview().splitlines()) <= 24, "one screen"
    assert overview().count("\n  atlas ") == 5, "the commands that are used most"


@pytest.mark.parametrize(
    "line", [line for page in PAGES.values() for line, _ in page.examples], ids=str
)
def test_examples_compose(line: str) -> None:
    command, *arguments = shlex.split(line)
    assert f"atlas {line}" in command_help(command)
    _, overrides = split_words(command, arguments)
    composed(*overrides)


@pytest.mark.parametrize("text", [overview(), *map(command_help, PAGES)], ids=["overview", *PAGES])
def test_pages_fit_a_terminal(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 100
