"""The settings reference is that of the code, and every setting has a whole sentence."""

import re

import pytest

from layer_atlas.config.compose import config_keys
from scripts.settings_page import PAGE, settings_page

TEXT = settings_page()
SENTENCES = re.findall(r"^\| `([^`]+)` \| .*? \| .*? \| (.*) \|$", TEXT, re.M)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == TEXT, "run `python scripts/settings_page.py` and commit the page"


def test_every_setting_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z_.0-9\[\]]+)`", TEXT))
    # The judge is described as one more model.
    keys = {re.sub(r"^judge\.", "models[].", key) for key in config_keys()}
    assert not keys - named


@pytest.mark.parametrize(("key", "meaning"), SENTENCES)
def test_every_setting_has_a_whole_sentence(key: str, meaning: str) -> None:
    assert re.match(r"[A-Z`]", meaning), f"{key} has no sentence, or one without a capital"
    assert meaning.endswith(".")
    assert not re.match(r"Of |What |So many", meaning)


@pytest.mark.parametrize(
    ("key", "default", "values"),
    [
        ("optimizer.steps", "`50`", "1 or more"),
        ("parameterization.levels", "`6`", "1 to 12"),
        ("transforms.crop", "`[1.0, 1.0]`", "0.05 to 1"),
        ("objective.sign", '`"positive"`', "`positive`, `negative`, `both`"),
        ("executor.gpus", "`1`", "0 or 1"),
    ],
)
def test_defaults_are_those_of_the_files_and_bounds_those_of_the_records(
    key: str, default: str, values: str
) -> None:
    assert f"| `{key}` | {default} | {values} |" in TEXT
