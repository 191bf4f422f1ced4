"""Messages: one line that a terminal can show, however long or odd what they quote."""

import pytest

from layer_atlas.errors import LONGEST_MESSAGE, UserError, unknown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a clear message.", "a clear message."),
        ("first\n  second\r\nthird\u2028fourth", "first second third fourth"),
        ("name 'é' and 日本", "name 'é' and 日本"),
        ("\x1b[31mred\x07 \x00 \udcff", r"\x1b[31mred\x07 \x00 \udcff"),
    ],
)
def test_a_message_is_one_line_that_a_terminal_can_show(text: str, told: str) -> None:
    assert str(UserError(text)) == told


def test_of_a_long_message_beginning_and_end_are_told() -> None:
    message = str(UserError(f"weights {'x' * 10**6} do not exist; take others."))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith("weights xxx")
    assert message.endswith("xxx do not exist; take others.")
    assert " ... " in message
    just = "x" * LONGEST_MESSAGE
    assert str(UserError(just)) == just


def test_the_nearest_of_many_choices_come_first() -> None:
    message = str(
        unknown("model", "resnet5", ["vgg11", "resnet50", *map(str, range(40))], "Or so.")
    )
    assert message.startswith("unknown model 'resnet5'; choose from: resnet50, ")
    assert message.endswith(", ... (42 in all). Or so.")
