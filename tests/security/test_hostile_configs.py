"""Configs from somebody else: nothing is run but what `target` and `function` name."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from runs import without_busy
from toys import composed

from layer_atlas.cli.commands import main
from layer_atlas.errors import UserError

pytestmark = pytest.mark.usefixtures("bounded")

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def atlas(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Said:
    """Run a command; returns its exit code and all that was said."""

    def run(*argv: str) -> tuple[int, str]:
        code = main([*argv, f"output_root={tmp_path}"])
        said = capfd.readouterr()
        return code, said.out + without_busy(said.err)

    return run


def assert_one_message(told: tuple[int, str], *words: str) -> None:
    code, said = told
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said


# --- what Hydra would instantiate ----------------------------------------------------------------

OVERRIDES = {
    "+_target_=os.system": "unknown config key '_target_'",
    "+optimizer._target_=os.system": "unknown config key 'optimizer._target_'",
    "+objective.inner={_target_:os.system,command:touch}": "unknown config key 'objective.inner'",
    "models=[{name:demo,_target_:os.system}]": "unknown config key 'models[0]._target_'",
    "+collate._target_=os.system": "unknown config key 'collate._target_'",
    "+hydra.callbacks.x._target_=os.system": "'hydra.callbacks' names code for Hydra to execute",
    "hydra.launcher._target_=os.system": "'hydra.launcher._target_' names code",
    "hydra.sweeper._target_=os.system": "'hydra.sweeper._target_' names code",
    "+hydra.job_logging.handlers.x.class=os.system": "handlers.x.class' names code",
    "+hydra.hydra_logging.handlers.x.class=logging.FileHandler": "handlers.x.class' names code",
    "hydra/launcher=evil": "unknown hydra/launcher choice 'evil'",
    "hydra.searchpath=[pkg://os]": "takes folders and file:// paths, not 'pkg://os'",
    "hydra.searchpath=[structured://x]": "takes folders and file:// paths",
    "hydra.searchpath=[file:///gone]": "is not a folder",
    "~hydra.run": "no config can be made of '~hydra.run",
}


@pytest.mark.parametrize(("override", "message"), OVERRIDES.items(), ids=OVERRIDES)
def test_targets_of_hydra_are_unknown_keys(atlas: Said, override: str, message: str) -> None:
    assert_one_message(atlas("status", override), message)


def test_targets_within_arguments_are_arguments(atlas: Said, marker: Path) -> None:
    # They go to the callable that the user named, as they are.
    hidden = f"{{_target_: os.system, command: 'touch {marker}'}}"
    told = atlas("layers", f"models=[{{name: m, target: os.getcwd, args: {hidden}}}]")
    assert_one_message(told, "target 'os.getcwd' failed")


def test_a_pickle_that_hydra_would_load_is_not(atlas: Said, tmp_path: Path) -> None:
    (tmp_path / "config.pickle").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    told = atlas("run", "--experimental-rerun", str(tmp_path / "config.pickle"))
    assert_one_message(told, "unknown flag '--experimental-rerun'")


FILES = {
    "callbacks": "# @package _global_\nhydra: {callbacks: {x: {_target_: os.system, c: CODE}}}",
    "logging": "# @package _global_\nhydra: {job_logging: {'()': os.system}}",
    "package": "# @package hydra.callbacks\nx: {_target_: os.system, command: CODE}",
    "launcher": "# @package _global_\ndefaults: [override /hydra/launcher: mine]",
    "sweeper": "# @package _global_\nhydra: {sweeper: {_target_: os.system, command: CODE}}",
    "nested": "# @package _global_\noptimizer: {_target_: os.system, command: CODE}",
    "a tag": "# @package _global_\nname: !!python/object/apply:os.system [CODE]",
    "a constructor": "# @package _global_\nname: !!python/name:os.system",
    "deep": "# @package _global_\nname: " + "[" * 100_000,
    "a bomb": "# @package _global_\na: &a [0,0,0,0,0,0,0,0,0]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
    + "models: *i",
    "a circle": "# @package _global_\nname: &a [*a]",
    "no YAML": "# @package _global_\nname: [",
    "no text": "\0\0\0",
    "another language": "\udcff\udcfe",
    "a list": "- name",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_files_that_are_more_than_settings_are_told(
    atlas: Said, tmp_path: Path, marker: Path, text: str
) -> None:
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "hydra" / "launcher").mkdir(parents=True)
    (folder / "hydra" / "launcher" / "mine.yaml").write_text("_target_: os.system")
    code = text.replace("CODE", f"'touch {marker}'")
    (folder / "experiment" / "evil.yaml").write_text(code, errors="surrogateescape")
    told = atlas("plan", "--config-dir", str(folder), "experiment=evil")
    assert_one_message(told)


@pytest.mark.slow
def test_a_folder_of_settings_is_used(atlas: Said, tmp_path: Path) -> None:
    folder = tmp_path / "it's, [mine]"
    (folder / "experiment").mkdir(parents=True)
    text = "# @package _global_\noptimizer: &o {steps: 7}\n"
    (folder / "experiment" / "fine.yaml").write_text(text)
    code, said = atlas("run", "--cfg", "job", f"--config-dir={folder}", "experiment=fine")
    assert code == 0
    assert "steps: 7" in said


def test_a_folder_that_is_none_is_told(atlas: Said, tmp_path: Path) -> None:
    assert_one_message(atlas("run", "-cd", str(tmp_path / "gone")), "is not a folder")


# --- interpolations ------------------------------------------------------------------------------


def test_variables_of_the_environment_are_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_PLACE", "${oc.env:HOME} $(touch x) `touch x`")
    assert composed("output_root=${oc.env:ATLAS_PLACE}").output_root == (
        "${oc.env:HOME} $(touch x) `touch x`"
    )


@pytest.mark.parametrize("text", ["${python:1}", "${eval:1+1}", "${oc.env:NOT_THERE_AT_ALL}"])
def test_other_interpolations_are_told(text: str) -> None:
    with pytest.raises(UserError):
        composed(f"output_root={text}")


# --- several jobs --------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_jobs_are_composed_before_the_first_is_run(atlas: Said, tmp_path: Path) -> None:
    code, said = atlas("layers", "-m", "image_size=24,32", "name=a")
    assert code == 0
    assert "24 x 24 px input" in said
    assert "32 x 32 px input" in said
    assert_one_message(atlas("layers", "-m", "image_size=24,nothing"), "image_size must be")


# --- files that configs name ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "objective.photograph",
        "init.photograph",
        "weights",
        "categories",
    ],
)
def test_endless_files_are_not_read(atlas: Said, tmp_path: Path, override: str) -> None:
    endless = tmp_path / "endless.pth"
    endless.symlink_to("/dev/zero")
    groups = {
        "objective.photograph": ["objective=inversion"],
        "init.photograph": ["init=photograph"],
    }
    setting = f"{override}={endless}"
    if override == "categories":
        setting = f"models=[{{name: demo, categories: {endless}}}]"
    assert_one_message(atlas("plan", *groups.get(override, []), setting), "a device or pipe")
