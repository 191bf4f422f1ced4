"""Files of a user's own on the command line, and Hydra's settings: both as Hydra users expect."""

import logging
from pathlib import Path
from typing import Any

import pytest

from layer_atlas import logs
from layer_atlas.config.compose import compose, with_config
from layer_atlas.config.config import Config
from layer_atlas.config.objectives import LogitObjective, NeuronObjective
from layer_atlas.errors import UserError


def configs(*arguments: str, apart: bool = False) -> list[Config]:
    """The configs that a command gets with these arguments."""
    found: list[Config] = []

    def keep(config: Config) -> int:
        found.append(config)
        return 0

    assert with_config(keep, arguments, apart=apart) == 0
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


MINE = """\
quality: draft
objective: logit
transforms: robust
models: [resnet18, {name: vgg11, label: mine}]
optimizer: {leaky_steps: 3}
name: mine
"""


def test_a_file_chooses_groups_and_sets_values(here: Path) -> None:
    (here / "my.yaml").write_text(MINE)
    (config,) = configs("my.yaml")
    (plain,) = configs("quality=draft", "transforms=robust")
    assert isinstance(config.objective, LogitObjective)
    assert [model.title for model in config.models] == ["resnet18", "mine"]
    assert config.transforms == plain.transforms
    assert config.optimizer.steps == plain.optimizer.steps
    assert (config.optimizer.leaky_steps, config.name) == (3, "mine")


@pytest.mark.slow
def test_the_command_line_beats_the_file_and_the_file_its_choices(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "my.yml").write_text("quality: draft\noptimizer: {steps: 64}\n")
    (draft,), (paper,) = configs("quality=draft"), configs("quality=paper")
    (config,) = configs("sub/my.yml", "quality=paper", "objective=neuron")
    assert isinstance(config.objective, NeuronObjective)
    assert config.optimizer.steps == 64, "a value of the file beats a choice, also a later one"
    assert config.optimizer.learning_rate == paper.optimizer.learning_rate
    assert draft.optimizer.learning_rate != paper.optimizer.learning_rate
    assert configs("optimizer.steps=7", "sub/my.yml")[0].optimizer.steps == 7


@pytest.mark.parametrize(
    "defaults",
    [
        "[config, override quality: paper, override objective: neuron, _self_]",
        "[quality: paper, objective: neuron]",
        "[/quality: paper, override /objective: neuron]",
        "[experiment: mine]",
    ],
)
def test_a_defaults_list_works_within_a_file(here: Path, defaults: str) -> None:
    (here / "experiment").mkdir()
    (here / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /quality: paper, override /objective: neuron]\n"
    )
    (here / "my.yaml").write_text(f"defaults: {defaults}\nname: x\n")
    (config,), (paper,) = configs("my.yaml"), configs("quality=paper")
    assert isinstance(config.objective, NeuronObjective)
    assert (config.optimizer, config.name) == (paper.optimizer, "x")


def test_null_is_a_value_of_a_setting_and_no_choice_of_a_mere_group(here: Path) -> None:
    (here / "my.yaml").write_text("mask: null\nexperiment: null\nseeds: [3]\n")
    (config,) = configs("my.yaml")
    assert (config.mask, config.seeds) == (None, (3,))


def test_a_choice_and_its_values_may_stand_together_in_a_file(here: Path) -> None:
    (here / "my.yaml").write_text(
        "objective: {name: neuron, position: [1, 2]}\ncollate: {gap: 3}\n"
    )
    (config,) = configs("my.yaml")
    assert config.objective == NeuronObjective(position=(1, 2))
    assert config.collate.gap == 3


@pytest.mark.slow
def test_settings_given_in_python_are_those_of_a_file(here: Path) -> None:
    (here / "my.yaml").write_text(
        "quality: draft\nlayers: conv1\noptimizer: {steps: 7}\nseeds: 3\n"
    )
    given = {"quality": "draft", "layers": ["conv1"], "optimizer.steps": 7, "seeds": [3]}
    assert (compose(given),) == tuple(configs("my.yaml"))
    over = compose({"optimizer": {"steps": 9}, "quality": "paper"}, "my.yaml")
    assert (over.optimizer.steps, over.layers) == (9, ("conv1",))
    assert over.optimizer.learning_rate == configs("quality=paper")[0].optimizer.learning_rate


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("optimzer: {steps: 3}", ["unknown config key 'optimzer'", "from: optimizer", "my.yaml"]),
        ("optimizer: {stpes: 3}", ["'optimizer.stpes'", "from: optimizer.steps", "my.yaml"]),
        ("quality: drft", ["unknown quality choice 'drft'; choose from: draft", "my.yaml"]),
        ("_target_: os.system", ["unknown config key '_target_'", "my.yaml"]),
        ("defaults: quality", ["defaults in config file 'my.yaml' must be a list"]),
        ("- name", ["config file 'my.yaml' cannot be read: it must hold settings"]),
        ("name: [", ["config file 'my.yaml' cannot be read"]),
        ("channels: 1:10", ["config file 'my.yaml'", "base 60", "'1:10'"]),
        ("models: [{name: demo, layers: [2:30]}]", ["base 60", "'2:30'"]),
        ("a: &a [*a]", ["config file 'my.yaml'"]),
        (
            "optimizer: {steps: many}",
            ["config file 'my.yaml': optimizer.steps must be a whole number, not 'many'"],
        ),
        ("seeds: [0, 0]", ["config file 'my.yaml': seeds must differ"]),
        (
            "models: [{name: m, mean: [123, 116, 103]}]",
            ["config file 'my.yaml': models[0]: mean", "divide by 255"],
        ),
    ],
)
def test_mistakes_in_a_file_name_it(here: Path, text: str, messages: list[str]) -> None:
    (here / "my.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        configs("my.yaml")
    for message in messages:
        assert message in str(caught.value)


def test_a_mistake_on_the_command_line_does_not_name_the_file(here: Path) -> None:
    (here / "my.yaml").write_text("seeds: [3]\nname: x\n")
    for override in ("seeds=[0,0]", "shard_size=0"):
        with pytest.raises(UserError) as caught:
            configs("my.yaml", override)
        assert "my.yaml" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seeds: 3", {"seeds": (3,)}),
        ("layers: fc", {"layers": ("fc",)}),
        ("channels: 3", {"channels": 3}),
        ("models: resnet18", {}),
    ],
)
def test_a_single_value_stands_for_a_list(here: Path, text: str, values: dict[str, Any]) -> None:
    (here / "my.yaml").write_text(text)
    (config,) = configs("my.yaml")
    (again,) = configs(text.replace(": ", "="))
    assert config == again
    assert {name: getattr(config, name) for name in values} == values


def test_a_file_that_is_not_there_and_two_files_are_refused(here: Path) -> None:
    with pytest.raises(UserError, match=r"config file 'gone.yaml' does not exist"):
        configs("gone.yaml")
    with pytest.raises(UserError, match="one config file at a time"):
        configs("a.yaml", "b.yaml")


@pytest.mark.parametrize(
    "hydra",
    [
        "{callbacks: {x: {_target_: os.system, command: CODE}}}",
        "{launcher: {_target_: os.system}}",
        "{job_logging: {handlers: {x: {(): os.system, command: CODE}}}}",
        "{searchpath: ['pkg://os']}",
    ],
)
@pytest.mark.parametrize("flags", [[], ["--cfg", "job"], ["-m"], ["--info", "all"]])
def test_what_would_execute_code_is_refused(here: Path, hydra: str, flags: list[str]) -> None:
    (here / "my.yaml").write_text(f"hydra: {hydra.replace('CODE', 'touch executed')}\n")
    with pytest.raises(UserError, match=r"names code for Hydra|takes folders"):
        configs("my.yaml", *flags)
    assert not (here / "executed").exists()


# --- Hydra's own settings and flags --------------------------------------------------------------


@pytest.mark.slow
def test_folders_of_config_files_are_found_by_flag_and_by_search_path(here: Path) -> None:
    (here / "more" / "quality").mkdir(parents=True)
    text = "# @package _global_\noptimizer: {steps: 7}\n"
    (here / "more" / "quality" / "mine.yaml").write_text(text)
    (here / "more" / "sweep.yaml").write_text("quality: mine\nname: sweep\n")
    for arguments in (
        ["--config-dir", "more"],
        ["--config-path=more"],
        ["hydra.searchpath=[more]"],
        [f"hydra.searchpath=['file://{here}/more']"],
    ):
        (config,) = configs(*arguments, "quality=mine")
        assert config.optimizer.steps == 7, arguments
    for arguments in (["--config-name", "sweep", "-cp", "more"], ["more/sweep.yaml"]):
        (config,) = configs(*arguments)
        assert (config.optimizer.steps, config.name) == (7, "sweep"), arguments
    with pytest.raises(UserError, match="--config-name 'swep'; choose from: sweep"):
        configs("--config-name=swep", "-cp=more")
    with pytest.raises(UserError, match="unknown quality choice 'mine'"):
        configs("quality=mine")  # nothing is left of the earlier command lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "seeds=[0],[1]"],
        ["--multirun", "my.yaml", "seeds=[0],[1]"],
        ["hydra.mode=MULTIRUN", "seeds=[0],[1]"],
        ["sweep.yaml"],
    ],
)
def test_several_jobs_are_asked_for_in_every_way_of_hydra(here: Path, arguments: list[str]) -> None:
    (here / "my.yaml").write_text("name: x\n")
    (here / "sweep.yaml").write_text(
        "hydra: {mode: MULTIRUN, sweeper: {params: {seeds: '[0],[1]'}}}\n"
    )
    assert [config.seeds for config in configs(*arguments)] == [(0,), (1,)]


@pytest.mark.parametrize("setting", ["hydra.run.dir=x", "hydra.sweep.subdir=x", "hydra.job.name=x"])
def test_idle_settings_of_hydra_are_allowed_with_a_warning(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    (config,) = configs(setting)
    assert config.name == "demo"
    (warning,) = caplog.messages
    assert warning.startswith(f"{setting.partition('=')[0]} has no effect")


def test_verbose_loggers_are_those_that_hydra_verbose_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "layer_atlas.one")
    caplog.set_level(logging.WARNING, "layer_atlas.other")
    configs("hydra.verbose=[layer_atlas.one]")
    assert logging.getLogger("layer_atlas.one").level == logging.DEBUG
    assert logging.getLogger("layer_atlas.other").level == logging.WARNING
    caplog.set_level(logging.WARNING)
    configs("hydra.verbose=true")
    assert logging.getLogger().level == logging.DEBUG


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["quality=draft,paper"], ["demo_draft", "demo_paper"]),
        (["name=x", "seeds=[0],[1,2]"], ["x_0", "x_1-2"]),
        (
            ["quality=draft,paper", "shard_size=8,9"],
            [
                *("demo_draft_8", "demo_draft_9", "demo_paper_8", "demo_paper_9"),
            ],
        ),
        (["name=a,b"], ["a", "b"]),
        (["name=a,b", "seeds=[0],[1]"], ["a_0", "a_1", "b_0", "b_1"]),
        (["name=x_${image_size}", "image_size=32,64"], ["x_32", "x_64"]),
    ],
)
def test_sweeps_of_one_command_line_have_folders_of_their_own(
    arguments: list[str], names: list[str]
) -> None:
    assert [config.name for config in configs("-m", *arguments, apart=True)] == names
    if "name=x_${image_size}" not in arguments:
        assert len({config.name for config in configs("-m", *arguments)}) <= 2, "as it was written"


def test_sweeps_whose_settings_make_no_names_are_refused() -> None:
    with pytest.raises(UserError, match="run them one by one, each with name="):
        configs("-m", "layers=['*'],['**']", apart=True)


def test_reading_settings_for_long_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "_SILENT_SECONDS", 0.01)
    with caplog.at_level(logging.INFO):
        configs("quality=draft")
    assert any(line.startswith("reading the settings, ") for line in caplog.messages)
