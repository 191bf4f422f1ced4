"""Blind naming: a viewer names unlabelled tiles with the names of a shuffled list."""

import math
import random
import re
from collections.abc import Mapping, Sequence

from layer_atlas.errors import UserError, unknown

_UNKNOWN = ("", "?")
_ANSWER = re.compile(r"\s*(\d+)\s*[:.,;\t ]\s*(.*)")


def shuffled(names: Sequence[str], seed: int) -> tuple[list[int], list[str]]:
    """Shuffle tiles and names, each by its own draw.

    Returns: the order of the tiles, as indices of `names`, and the list of names.
    """
    draw = random.Random(seed)
    order = draw.sample(range(len(names)), len(names))
    return order, draw.sample(list(names), len(names))


def read_answers(text: str, names: Sequence[str]) -> dict[int, str]:
    """Read answers of the form `NUMBER NAME`, one per line; `?` is no answer.

    Raises:
        UserError: a line without a number, a number that is given twice, a name of no list.
    """
    known = {name.casefold(): name for name in names}
    answers: dict[int, str] = {}
    for line in filter(str.strip, text.splitlines()):
        found = _ANSWER.fullmatch(line)
        if found is None:
            raise UserError(f"answer {line!r} is not understood; write the tile, then the name.")
        tile, answer = int(found[1]), found[2].strip()
        if tile in answers:
            raise UserError(f"tile {tile} is answered twice; give each tile one name.")
        if answer not in _UNKNOWN and answer.casefold() not in known:
            raise unknown(f"name of tile {tile}", answer, names, "Write ? for no answer.")
        answers[tile] = known.get(answer.casefold(), "")
    return answers


def count_right(key: Mapping[int, str], answers: Mapping[int, str]) -> int:
    """Count the tiles with the right name; a tile without an answer is wrong.

    Raises:
        UserError: an answer for a tile that does not exist.
    """
    if extra := set(answers) - set(key):
        raise unknown("tile", min(extra), map(str, key))
    return sum(answers.get(tile) == name for tile, name in key.items())


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of Wilson 1927 for a binomial fraction, 95 % by default.

    Unlike the normal approximation it stays within 0 and 1 and has a width at 0 and at all.
    """
    fraction, weight = right / count, z * z / count
    centre = (fraction + weight / 2) / (1 + weight)
    reach = math.sqrt(fraction * (1 - fraction) * weight + weight * weight / 4) / (1 + weight)
    return max(0.0, centre - reach), min(1.0, centre + reach)
