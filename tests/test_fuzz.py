"""Fuzzing: whatever a sweep is asked to be, it is planned or refused with one clear message.

Any other exception, a traceback, an empty or an endless message is a fault.
"""

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from random_sweeps import ODD, Sweep, fuzz, sweeps

from layer_atlas.cli.commands import main
from layer_atlas.cli.tables import plan_table
from layer_atlas.config.compose import config_keys
from layer_atlas.config.config import Config, config_folder, make_config
from layer_atlas.config.records import build, plain
from layer_atlas.errors import EXIT_OK, EXIT_USER_ERROR, LONGEST_MESSAGE, UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import output_folder
from layer_atlas.sweep.planning import planner
from layer_atlas.sweep.run import prepare_plan


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_clear(message: str, sweep: Sweep) -> None:
    """One line of readable length, which names what was asked for."""
    assert message.strip()
    assert message.isprintable()
    assert len(message) <= LONGEST_MESSAGE
    assert any(word in message for word in sweep.words), (message, sweep.words)


def configured(sweep: Sweep) -> Config | None:
    """The config, or None if it is refused as it should be."""
    try:
        values = OmegaConf.create(sweep.values)
    except OmegaConfBaseException:
        return None  # Hydra would have refused that before
    try:
        return make_config(values)
    except UserError as error:
        assert_clear(str(error), sweep)
        return None


@pytest.mark.slow
def test_any_values_make_a_config_or_one_message() -> None:
    outcomes: Counter[bool] = Counter()

    @fuzz(350)
    @given(sweeps(odd=True))
    def any_values(sweep: Sweep) -> None:
        config = configured(sweep)
        outcomes[config is not None] += 1
        if config is not None:
            text = json.dumps(plain(config), allow_nan=False)
            assert build(Config, json.loads(text)) == config

    any_values()
    assert min(outcomes[True], outcomes[False]) > 50, outcomes


@pytest.mark.slow
def test_any_sweep_is_planned_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: Counter[bool] = Counter()
    # A clock decides it, and so otherwise when a sweep is planned twice without a cache.
    monkeypatch.setattr(planner, "is_faster_than_fp32", lambda *args: True)

    @fuzz(140)
    @given(sweeps(odd=False), st.sampled_from((16, 20, [16, 24])))
    def any_sweep(sweep: Sweep, size: object) -> None:
        if ("image_size",) not in dict(sweep.changes):
            sweep.values["image_size"] = size
        config = configured(sweep)
        plan = config and planned(config, sweep)
        outcomes[plan is not None] += 1

    any_sweep()
    assert min(outcomes[True], outcomes[False]) > 20, outcomes


def planned(config: Config, sweep: Sweep) -> Plan | None:
    """The plan, found sound, or None if it is refused as it should be."""
    try:
        plan, devices = prepare_plan(config)
        table = plan_table(output_folder(config.output_root, config.name), plan, devices)
    except UserError as error:
        assert_clear(str(error), sweep)
        return None
    assert all(layer.info.name in table for model in plan.models for layer in model.layers)
    assert prepare_plan(config) == (plan, devices)
    assert build(Plan, json.loads(json.dumps(plain(plan)))) == plan
    shards = list(plan.shards())
    jobs = [(s.model, s.series.layer, s.series.seed, c) for s in shards for c in s.targets]
    wanted = [
        (model.label, layer.info.name, seed, channel)
        for model in plan.models
        for layer in model.layers
        for seed in plan.seeds
        for channel in layer.targets
    ]
    assert sorted(jobs) == sorted(set(wanted))
    assert len({shard.key for shard in shards}) == len(shards)
    keys = {key for shard in shards[:20] for key in shard.job_keys}
    assert len(keys) == sum(shard.units for shard in shards[:20])
    return plan


# --- the command line ----------------------------------------------------------------------------

KEYS = (
    *(*config_keys(), *(path.name for path in config_folder().iterdir() if path.is_dir())),
    *("hydra", "hydra.run.dir", "nmae", "", "a.b", "optimizer.", ".x", "models.0", "seeds[0]"),
    *("objective@y", "@x", "é", "x y", "hydra/launcher"),
)
TEXTS = (
    *(str(value) for value in ODD if len(str(value)) < 10_000),
    *("1", "1e400", "1" * 5000, "true", "null", "[", "[1", "{a:1", "{a: {b: 1}}", "'", '"', "${"),
    *("${optimizer.steps}", "${oc.env:HOME,}", "${now:%Y}", "$", "a,b", "range(3)", "glob(*)"),
    *("choice(a,b)", "extend_list(3)", "int(x)", "a=b", "a b", "~", "!!python/object:os.system"),
    *("*", "%", "@", "#", "\\", "{0: 1}", "{[]: 1}", "channel", "four", "[demo]", "[0:4]", "-"),
)
WORDS = (
    *("", "=", "a", "-x", "--foo", "-c", "--cfg=zz", "--config-name=x", "--config-dir=gone", "@"),
    *(
        "--info=zz",
        "-p",
        "[]",
        "{}",
        " ",
        "~",
        "+",
        "++",
        "\n",
        "a=b=c",
        "experiment=demo,evidence",
    ),
    *("--experimental-rerun=x", "quality=[draft]", "~seeds.0", "~optimizer", "objective=null"),
)
overrides = st.builds(
    "{}{}={}".format,
    st.sampled_from(("", "", "", "+", "++", "~")),
    st.sampled_from(KEYS),
    st.sampled_from(TEXTS) | st.text(max_size=12),
) | st.sampled_from(WORDS)


def test_any_command_line_is_obeyed_or_told() -> None:
    codes: Counter[int] = Counter()

    @fuzz(40)
    @given(st.lists(overrides, min_size=1, max_size=2))
    def any_line(words: list[str]) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(["plan", "image_size=16", *words])
        codes[code] += 1
        message = said.getvalue()
        assert code in (EXIT_OK, EXIT_USER_ERROR)
        if code == EXIT_USER_ERROR:
            assert message.startswith("error: ")
            assert message.count("\n") == 1
            assert message.strip().isprintable()
            assert len(message) <= LONGEST_MESSAGE + len("error: \n")

    any_line()
    assert codes[EXIT_USER_ERROR] > 10
