"""Mistakes on the command line: one clear message, exit code 2, nothing computed or written."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import without_busy

from layer_atlas.cli.commands import COMMANDS, _may_run, main, split_words
from layer_atlas.config.config import Config

Atlas = Callable[..., tuple[int, str]]


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Atlas:
    """Run a command in this process; returns exit code and what it printed about its subject."""
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str]:
        said = io.StringIO()
        GlobalHydra.instance().clear()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main(argv)
            except SystemExit as stop:  # how Hydra ends when it has shown something
                code = int(stop.code or 0)
        return code, without_busy(said.getvalue()) if "--help" not in argv else said.getvalue()

    return run


MISTAKES = {
    "unknown model": (["models=[resnet5]"], "unknown model 'resnet5'; choose from: resnet50"),
    "unknown layer": (
        ["layers=[conv9]"],
        "unknown layer of model 'demo': 'conv9'; choose from: conv",
    ),
    "unknown type": (["layers=['*@Conv3d']"], "Types in this model: AvgPool2d, Conv2d"),
    "channel out of range": (["channels=[3,99]"], "channel 99 is out of range: demo/conv1 has"),
    "negative channel": (["channels=[-1]"], "channel -1 is out of range"),
    "no channel": (["channels=[]"], "selects no channel of demo/conv1"),
    "empty range": (["channels='90:95'"], "selects no channel of demo/conv1"),
    "senseless channels": (["channels=some"], "channels='some' is not understood"),
    "misspelt key": (["nmae=x"], "unknown config key 'nmae'; choose from: name"),
    "misspelt nested key": (["optimizer.step=3"], "choose from: optimizer.steps"),
    "key of a choice not made": (["dataset.path=x"], "the chosen dataset has no 'dataset.path'"),
    "new key": (["+colour=red"], "unknown config key 'colour'"),
    "misspelt choice": (["quality=drft"], "unknown quality choice 'drft'; choose from: draft"),
    "key of another choice": (
        ["parameterization=pixel", "parameterization.contrast=1"],
        "contrast",
    ),
    "wrong type": (["optimizer.steps=many"], "optimizer.steps must be a whole number, not 'many'"),
    "out of range": (["optimizer.steps=0"], "steps must be 1 or more, not 0"),
    "wrong literal": (["precision=fp8"], "unknown precision 'fp8'; choose from: fp32"),
    "unbalanced brackets": (["layers=[conv1"], "'layers=[conv1' cannot be understood"),
    "special characters": (["name=é"], "in quotes of its own: 'KEY=\"VALUE\"'"),
    "unknown flag": (["--foo"], "unknown flag '--foo'; choose from: "),
    "wrong flag": (["--cfg=everything"], "invalid choice: 'everything' (choose from 'job'"),
    "pickled config": (
        ["--experimental-rerun=x.pickle"],
        "unknown flag '--experimental-rerun'; choose from: ",
    ),
    "list as a choice": (["quality=[1,2]"], "no config can be made of 'quality=[1,2]'"),
    "key within a list": (["~seeds.0"], "no config can be made of '~seeds.0'"),
    "choice of a group twice": (["+optimizer=adam"], "optimizer appears more than once"),
    "two choices": (["quality=draft,paper"], "Ambiguous value for argument"),
    "no such folder": (["--config-dir=gone"], "config folder 'gone' is not a folder."),
    "missing weights": (["models=[alexnet]", "weights=gone.pth"], "'gone.pth' does not exist"),
    "unknown weights": (["models=[alexnet]", "weights=IMAGENET"], "choose from: IMAGENET1K_V1"),
    "too small": (
        ["models=[alexnet]", "weights=none", "image_size=24"],
        "cannot take images of 24",
    ),
    "tiny": (["image_size=2"], "images of 2 x 2 px are too small"),
    "no such device": (["executor.devices=[cuda:93]"], "device 'cuda:93' is not on this machine"),
    "hostile name": (["name=../../x"], "cannot be a folder name"),
    "animations of nothing": (["collate.animations=both"], "keeps none: run it with snapshots=8"),
    "model twice": (["models=[demo,demo]"], "two models are called 'demo'"),
    "no such target": (["models=[{name: m, target: nowhere.build}]"], "cannot be imported"),
    "no such executor": (
        ["executor=custom", "executor.target=nowhere.Mine"],
        "executor.target 'nowhere.Mine' cannot be imported",
    ),
    "file of an experiment": (["experiment=squeezenet_local"], "does not exist"),
}


@pytest.mark.parametrize(("overrides", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_gets_one_message_and_nothing_is_written(
    atlas: Atlas, tmp_path: Path, command: str, overrides: list[str], message: str
) -> None:
    code, said = atlas(command, *overrides)
    assert code == 2
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


NETWORKS = """
from torch import nn

class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.mask = nn.Identity()

    def forward(self, x):
        return self.mask((self.conv(x) > 0).float())

class Picky(nn.Conv2d):
    def forward(self, x):
        if str(x.dtype) != "torch.float32":
            raise TypeError("fp32 only")
        return super().forward(x)

def blind():
    return Blind()

def picky():
    return nn.Sequential(Picky(3, 4, 3))

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target=blind", "layers=[mask]"], "no gradient reaches the image from layer 'mask'"),
        (["target=picky", "precision=bf16"], "fp32 only"),
        (["target=lazy"], "lazy modules"),
    ],
)
def test_a_network_that_cannot_be_optimized_is_told_before_it_fails(
    atlas: Atlas, tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    target = overrides[0].partition("=")[2]
    model = f"models=[{{name: m, target: networks_of_mine.{target}}}]"
    code, said = atlas("plan", model, "image_size=32", *overrides[1:])
    assert code == 2
    assert message in said


def test_a_network_that_fails_in_bf16_is_made_in_fp32(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    model = "models=[{name: m, target: networks_of_mine.picky}]"
    code, said = atlas("plan", model, "image_size=32", "layers=['0']")
    assert code == 0
    assert "precision fp32" in said


def test_unknown_command_offers_the_nearest(atlas: Atlas) -> None:
    code, said = atlas("plam")
    assert code == 2
    assert "choose from: plan" in said


def test_without_a_command_there_is_an_overview(atlas: Atlas) -> None:
    code, said = atlas()
    assert code == 0
    assert "atlas run" in said


WORDS = {
    "of a command that takes none": (["run", "resnet50"], "such as name=demo, not 'resnet50'"),
    "unknown": (["clean", "name=x", "ys"], "unknown word of `atlas clean` 'ys'; choose from: yes"),
    "of another command": (["status", "yes"], "unknown word of `atlas status` 'yes'"),
    "of what is not there": (["failures", "conv1", "name=nope"], "there is no run in"),
}


@pytest.mark.parametrize(("argv", "message"), WORDS.values(), ids=WORDS)
def test_words_that_a_command_does_not_take(atlas: Atlas, argv: list[str], message: str) -> None:
    code, said = atlas(*argv)
    assert code == 2
    assert message in said


@pytest.mark.parametrize("argv", [["all", "name=x"], ["name=x", "all"], ["name=x", "all", "+a=1"]])
def test_words_stand_anywhere_among_the_settings(argv: list[str]) -> None:
    words, rest = split_words("status", argv)
    assert (words, rest) == (["all"], [word for word in argv if word != "all"])


def test_what_follows_a_flag_is_not_a_word() -> None:
    argv = ["--config-dir", "more", "--cfg", "job", "~saliency", "+a=b", "name=x"]
    assert split_words("run", argv) == ([], argv)


def test_an_output_folder_that_cannot_be_written(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    code, said = atlas("run", "output_root=file")
    assert code == 2
    assert "cannot be written" in said


def test_status_of_a_run_that_is_not_there_names_those_that_are(
    atlas: Atlas, tmp_path: Path
) -> None:
    (tmp_path / "outputs" / "other").mkdir(parents=True)
    (tmp_path / "outputs" / "other" / "manifest.json").write_text("{}")
    code, said = atlas("status", "name=nope")
    assert code == 2
    assert "Runs in 'outputs': other" in said


@pytest.mark.slow
def test_hydras_own_flags_work(atlas: Atlas, tmp_path: Path) -> None:
    code, said = atlas("run", "--help")
    assert code == 0
    assert said.startswith("atlas run: optimize the missing images")
    assert "`atlas run --help settings` lists the settings" in said
    assert len(said.splitlines()) <= 24, "the examples must be on the first screen"
    code, said = atlas("run", "--help", "settings")
    assert code == 0
    assert said.startswith("atlas run: optimize the missing images")
    assert "quality: draft, natural, paper, standard" in said
    assert "powered by Hydra" not in said
    code, said = atlas("run", "--cfg", "job", "quality=draft")
    assert code == 0
    assert "steps: 16" in said
    (tmp_path / "more" / "quality").mkdir(parents=True)
    (tmp_path / "more" / "quality" / "mine.yaml").write_text(
        "# @package _global_\noptimizer: {steps: 7}\n"
    )
    code, said = atlas("run", "--cfg", "job", "--config-dir", "more", "quality=mine")
    assert code == 0
    assert "steps: 7" in said


@pytest.mark.parametrize("text", ["steps: [1", "\t:", "name: !!python/object:os.system", "a: *b"])
def test_a_file_that_is_no_yaml_is_told(atlas: Atlas, tmp_path: Path, text: str) -> None:
    (tmp_path / "more" / "quality").mkdir(parents=True)
    (tmp_path / "more" / "quality" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    code, said = atlas("plan", "--config-dir", "more", "quality=mine")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("error: config file ")
    assert "mine.yaml' cannot be read: " in said


def test_of_several_configs_all_are_checked_before_one_is_run(atlas: Atlas, tmp_path: Path) -> None:
    code, said = atlas("run", "-m", "optimizer.steps=1,0")
    assert code == 2
    assert "steps must be 1 or more, not 0" in said
    assert not (tmp_path / "outputs").exists()


def test_tab_completion_completes_choices(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "atlas run quality=dr")
    monkeypatch.setenv("COMP_POINT", "20")
    code, said = atlas("-sc", "query=bash")
    assert code == 0
    assert "quality=draft" in said


def test_the_first_line_names_command_run_and_folder_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def look(config: Config) -> int:
        said.append(capsys.readouterr().err)
        return 0

    for command in ("run", "verify", "layers"):
        monkeypatch.setitem(COMMANDS, command, look)
        assert main([command, "name=mine", f"output_root={tmp_path}", "models=[resnet18]"]) == 0
    run, verify, layers = said
    assert run == f"atlas run: mine, in {tmp_path / 'mine'}\n"
    assert verify == f"atlas verify: mine, in {tmp_path / 'mine'}\n"
    assert layers == "atlas layers: resnet18\n"


def make_runs(root: Path, *names: str) -> None:
    """Manifests of runs, each newer than the one before."""
    for age, name in enumerate(reversed(names)):
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text("{}")
        os.utime(root / name / "manifest.json", (1e9 - age, 1e9 - age))


@pytest.mark.parametrize("command", ["figure", "site", "verify", "collate", "status", "failures"])
def test_a_command_without_a_name_takes_the_only_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    names: list[str] = []

    def keep(config: Config) -> int:
        names.append(config.name)
        return 0

    monkeypatch.setitem(COMMANDS, command, keep)
    root = f"output_root={tmp_path}"
    assert main([command, root]) == 0
    make_runs(tmp_path, "mine")
    assert main([command, root]) == 0
    assert main([command, root, "name=other"]) == 0
    assert names == ["demo", "mine", "other"]


def test_a_command_without_a_name_lists_several_runs_the_newest_first(
    atlas: Atlas, tmp_path: Path
) -> None:
    make_runs(tmp_path / "outputs", "demo", "b", "a")
    code, said = atlas("figure")
    assert code == 2
    assert "several runs in 'outputs'; choose one with name=... (the newest first: a, b, demo)" in (
        said
    )


def test_clean_and_run_never_take_another_run_than_the_named_one(
    atlas: Atlas, tmp_path: Path
) -> None:
    make_runs(tmp_path / "outputs", "mine")
    code, said = atlas("clean", "yes")
    assert code == 2
    assert "there is no run in 'outputs/demo'" in said


def test_code_that_only_the_manifest_names_runs_after_a_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert _may_run([], [])
    assert not _may_run(["mine.build"], [])
    assert _may_run(["mine.build"], ["yes"])
    assert not _may_run(["memory:mine"], ["yes"]), "a module in memory is gone"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert _may_run(["mine.build"], [])
