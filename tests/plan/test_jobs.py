"""Keys: everything that decides pixels changes them, and nothing else does."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from toys import IDENTITY, make_result, make_series

from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Growth, Octaves
from layer_atlas.plan.jobs import Series, Shard

SERIES = make_series()


def changed(value: Any) -> Any:
    """Another value of the same kind that a recipe would accept."""
    if value is None:
        return Octaves()
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return tuple(changed(item) for item in value)
    if isinstance(value, int):
        return value + 1
    return value + (0.001 if value < 1.0 else -0.001)


def one_change_each(record: Any) -> Iterator[tuple[str, Any]]:
    """The record with one field changed, for every field at any depth."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Growth):  # its two fields go together
            yield field.name, replace(record, growth=Growth((0.5,), (0.1,)))
        elif is_dataclass(value):
            for place, inner in one_change_each(value):
                yield f"{field.name}.{place}", replace(record, **{field.name: inner})
        else:
            yield field.name, replace(record, **{field.name: changed(value)})


CHANGES = {place: series for place, series in one_change_each(SERIES) if place != "model"}


def test_key_is_sha256_of_the_canonical_identity() -> None:
    identity = {
        "network": {
            "source": "toy",
            "weights_sha256": "c0ffee" * 10,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "fixed_size": None,
            "code": "",
        },
        "layer": "block.conv",
        "seed": 0,
        "recipe": {
            "objective": {"name": "channel", "sign": "positive"},
            "parameterization": {
                "name": "fourier",
                "decay_power": 1.5,
                "initial_sd": 0.3,
                "contrast": 2.5,
                "alpha": False,
            },
            "transforms": {
                "jitter": 0.0,
                "scale": [1.0, 1.0],
                "rotate": 0.0,
                "flip": 0.0,
                "perspective": 0.0,
                "crop": [1.0, 1.0],
                "brightness": [1.0, 1.0],
                "contrast": [1.0, 1.0],
                "saturation": [1.0, 1.0],
                "blur": [0.0, 0.0],
                "noise": [0.0, 0.0],
                "cutout": [0.0, 0.0],
            },
            "optimizer": {
                "name": "adam",
                "steps": 12,
                "learning_rate": 0.3,
                "final_learning_rate": 0.1,
                "schedule": "cosine",
                "warmup_steps": 0,
                "beta1": 0.3,
                "beta2": 0.99,
                "weight_decay": 0.0,
                "leaky_steps": 4,
                "leaky_slope": 0.1,
                "starts": 3,
            },
            "image_size": [16, 16],
            "octaves": None,
            "mask": None,
            "snapshots": 0,
            "precision": "fp32",
            "regularizers": {
                "total_variation": 0.0,
                "l1": 0.0,
                "l2": 0.0,
                "high_frequency": 0.0,
                "blur": 0.0,
                "clip": 0.0,
                "feature_statistics": 0.0,
            },
            "init": {"name": "noise"},
            "keep_prefix_tokens": False,
            "algorithm": SERIES.recipe.algorithm,
        },
    }

    def sha256(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    assert SERIES.key == sha256(identity)
    assert SERIES.job_key(3) == sha256({**identity, "channel": 3})


@pytest.mark.parametrize("place", CHANGES)
def test_every_field_of_network_layer_seed_and_recipe_changes_the_keys(place: str) -> None:
    other = CHANGES[place]
    assert other != SERIES
    assert other.key != SERIES.key
    assert other.job_key(0) != SERIES.job_key(0)
    assert Shard(other, (0, 1)).key != Shard(SERIES, (0, 1)).key


def test_the_fields_above_include_those_of_nested_records() -> None:
    some = {"seed", "layer", "network.weights_sha256", "recipe.optimizer.leaky_slope"}
    assert some | {"recipe.growth"} < set(CHANGES)


def test_label_is_not_part_of_the_identity() -> None:
    assert replace(SERIES, model="another").key == SERIES.key
    assert replace(SERIES, model="another").job_key(5) == SERIES.job_key(5)


def test_families_with_equal_fields_have_different_keys() -> None:
    keys = {
        replace(SERIES, recipe=replace(SERIES.recipe, parameterization=member)).key
        for member in (Fourier(initial_sd=0.3), Pixel(initial_sd=0.3))
    }
    assert len(keys) == 2


def test_channels_have_their_own_job_keys_and_shards_theirs() -> None:
    keys = [SERIES.job_key(c) for c in range(100)]
    assert len(set(keys)) == 100
    shard = Shard(SERIES, (4, 2))
    assert shard.job_keys == [keys[4], keys[2]]
    assert len({Shard(SERIES, c).key for c in ((0, 1), (0, 1, 2), (1, 2), (0,))}) == 4


def test_equal_series_made_apart_have_equal_keys() -> None:
    again = Series("toy", replace(IDENTITY), "block.conv", 0, replace(SERIES.recipe))
    assert again.key == SERIES.key


def test_shard_names_what_it_holds() -> None:
    assert str(Shard(SERIES, (8, 9, 12))) == "toy/block.conv channels 8-12 seed 0"


def test_rows_of_a_result_keep_what_all_jobs_share() -> None:
    result = make_result(Shard(SERIES, (0, 1, 2)))
    rows = result.rows(np.asarray([2, 0]))
    assert rows["target"].tolist() == [2, 0]
    assert rows["activation"].tolist() == [20.0, 0.0]
    assert rows["trace_step"].tolist() == result.arrays["trace_step"].tolist()
