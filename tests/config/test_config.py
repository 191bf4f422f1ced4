"""The config: what `conf/` holds composes and is sound, and mistakes are told with their place."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from toys import composed

from layer_atlas.config.config import config_folder
from layer_atlas.config.datasets import FolderDataset, TorchvisionDataset
from layer_atlas.config.parameterizations import NaturalFourier, Pixel
from layer_atlas.errors import UserError

CHOICES = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(config_folder().glob("*/*.yaml"))
    if path.parent.name != "experiment"
]
METHODS = ("vanilla", "smoothgrad", "integrated_gradients")
OF_PHOTOGRAPHS = ("caricature", "inversion", "accentuation")
EXPERIMENTS = sorted((config_folder() / "experiment").glob("*.yaml"))


def test_defaults_are_the_demo_network_with_all_channels() -> None:
    config = composed()
    assert [model.title for model in config.models] == ["demo"]
    assert (config.channels, config.seeds) == ("all", (0,))
    assert config.models[0].layers == ("*@Conv2d",)
    assert isinstance(config.parameterization, NaturalFourier)


NEEDED = {
    "init=dataset": ["dataset=folder"],
    "quality=natural": ["dataset=folder"],
    "objective=prototype": ["dataset=folder"],
    "objective=facets": ["dataset=folder", "dataset.top=36"],
    **{f"saliency={name}": ["dataset=folder"] for name in METHODS},
    **{f"objective={name}": ["objective.photograph=photo.jpg"] for name in OF_PHOTOGRAPHS},
    "init=photograph": ["init.photograph=photo.jpg"],
    "mask=picture": ["mask.area=mask.png", "mask.picture=photo.jpg"],
    "parameterization=generator": [
        "parameterization.target=mymodule.build",
        "parameterization.weights=prior.pth",
        "parameterization.latent=[8]",
    ],
    "objective=custom": ["objective.function=mymodule.score"],
    "executor=custom": ["executor.target=mymodule.Mine"],
    "figure=again": ["figure.path=figure.pdf"],
    "figure=composite": ["figure.panels=[{name: traces}]"],
    "objective=activation_atlas": ["dataset=folder", "dataset.path=photos"],
    "objective=joint": ["objective.terms=[{layer: conv1}, {layer: conv2, weight: -1}]"],
}
"""What some choices cannot do without."""


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes(choice: str) -> None:
    group, _, pick = choice.partition("=")
    whose = [f"optimizer={pick.partition('_')[0]}"] if group == "pace" else []
    assert composed(choice, *whose, *NEEDED.get(choice, [])).name == "demo"


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("mask=picture", "mask.area"),
        ("init=photograph", "init.photograph"),
        ("parameterization=generator", "parameterization.target"),
        ("figure=again", "figure.path"),
        ("figure=composite", "figure.panels"),
    ],
)
def test_what_must_be_given_is_told(choice: str, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is missing and has no default"):
        composed(choice)


ABOUT_PHOTOGRAPHS = ["saliency=vanilla", "init=dataset", "objective=prototype", "objective=facets"]


@pytest.mark.parametrize("choice", ABOUT_PHOTOGRAPHS)
def test_what_is_about_photographs_needs_some(choice: str) -> None:
    with pytest.raises(UserError, match="add dataset=folder"):
        composed(choice)


def test_no_more_photographs_are_kept_than_a_sheet_shows() -> None:
    with pytest.raises(UserError, match="examples must be 0 to 9, not 10"):
        composed("dataset=folder", "dataset.examples=10")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes_and_opens_with_its_command(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "resnet18").mkdir(parents=True)
    (tmp_path / "runs" / "resnet18" / "step_1.pth").touch()
    monkeypatch.chdir(tmp_path)
    command = next(line for line in path.read_text().splitlines() if "atlas" in line)
    words = shlex.split(command.removeprefix("# "))
    assert words[:3] == ["./scripts/atlas", "run", f"experiment={path.stem}"]
    assert composed(*words[2:]).name != "demo"


def test_local_experiment_downloads_nothing() -> None:
    (model,) = composed("experiment=squeezenet_local").models
    assert str(model.weights).endswith(".safetensors")


def test_better_quality_takes_more_steps() -> None:
    steps = [composed(f"quality={q}").optimizer.steps for q in ("draft", "standard", "paper")]
    assert steps == sorted(set(steps))


def test_command_line_wins_over_preset_and_experiment() -> None:
    config = composed("experiment=demo", "quality=paper", "optimizer.steps=7", "seeds=[5]")
    assert (config.optimizer.steps, config.seeds) == (7, (5,))


def test_choosing_another_group_member_replaces_the_whole_group() -> None:
    assert composed("parameterization=pixel", "parameterization.initial_sd=1").parameterization == (
        Pixel(initial_sd=1.0)
    )


@pytest.mark.slow
def test_models_are_names_or_mappings_and_inherit_what_they_do_not_say() -> None:
    config = composed(
        "models=[resnet18,{name: vgg11, label: mine, weights: none, layers: [features.0]}]",
        "layers=[conv1]",
    )
    first, second = config.models
    assert (first.title, first.weights, first.layers) == ("resnet18", "default", ("conv1",))
    assert (second.title, second.weights, second.layers) == ("mine", "none", ("features.0",))
    assert composed("models=resnet18").models == composed("models=[resnet18]").models


@pytest.mark.parametrize("asked", ["collate.montage=evidence", "montage=evidence"])
def test_evidence_is_drawn_when_asked_for_and_looks_like_montages_otherwise(asked: str) -> None:
    grid, evidence = composed().collate, composed(asked).collate
    assert (grid.montage, evidence.montage) == ("grid", "evidence")
    assert replace(evidence, montage="grid") == grid


def test_config_is_plain_data_once_frozen() -> None:
    config = composed("channels={random: 4}", "models=[{name: m, target: a.b, args: {n: [1]}}]")
    assert config.channels == {"random": 4}
    assert type(config.channels) is dict
    assert type(asdict(config)["models"][0]["args"]["n"]) is list


def test_a_dataset_is_a_choice_of_its_own_and_none_by_default() -> None:
    assert composed().dataset is None
    assert composed("dataset=none").dataset is None
    folder = composed("dataset=folder", "dataset.path=photos", "dataset.top=4").dataset
    assert folder == FolderDataset(path="photos", top=4)
    wanted = "dataset.args={root: data, train: false}"
    library = composed("dataset=torchvision", "dataset.dataset=STL10", wanted).dataset
    args = {"root": "data", "train": False}
    assert library == TorchvisionDataset(dataset="STL10", args=args)


MISTAKES = [
    ("+imagesize=3", ["unknown config key 'imagesize'", "choose from: image_size"]),
    ("+optimizer.stpes=3", ["'optimizer.stpes'", "choose from: optimizer.steps"]),
    ("optimizer.steps=0", ["optimizer", "steps must be 1 or more, not 0"]),
    ("optimizer.steps=2.5", ["optimizer.steps must be a whole number, not 2.5"]),
    ("optimizer.steps=true", ["optimizer.steps must be a whole number, not True"]),
    (f"optimizer.steps={10**20}", ["optimizer.steps must be a whole number of 64 bits"]),
    (f"optimizer.learning_rate={10**400}", ["optimizer.learning_rate", "of 64 bits"]),
    (
        "optimizer.learning_rate=1e39",
        ["optimizer.learning_rate must be a number of at most 3.4e+38"],
    ),
    ("optimizer.learning_rate=nan", ["optimizer.learning_rate must be a number of at most"]),
    ("transforms.scale=[1,inf]", ["transforms.scale[1] must be a number of at most", "not inf"]),
    ("optimizer.steps=${nothing}", ["optimizer.steps: Interpolation key 'nothing' not found"]),
    ("seeds=${oc.env:NO_SUCH_VARIABLE}", ["seeds: ", "'NO_SUCH_VARIABLE' not found"]),
    (
        "objective=custom; objective.function=f; objective.args={a: [1, {b: inf}]}",
        ["objective.args.a[1].b must be a number of at most"],
    ),
    (
        "transforms.scale=[1.2,1]",
        ["transforms", "scale must be in ascending order, not [1.2, 1.0]"],
    ),
    ("transforms.scale=[1]", ["transforms.scale must be a list of 2"]),
    ("transforms.noise=0.1", ["transforms.noise must be a list, not 0.1"]),
    ("transforms.flip=2", ["transforms", "flip must be 0 to 1, not 2.0"]),
    ("+transforms.jiter=2", ["'transforms.jiter'", "choose from: transforms.jitter"]),
    ("parameterization.name=fourie", ["parameterization.name 'fourie'", "choose from: fourier"]),
    ("init.name=nois", ["init.name 'nois'", "choose from: noise"]),
    ("regularizers.l2=-1", ["regularizers", "l2 must be 0 or more, not -1.0"]),
    ("precision=fp16", ["precision 'fp16'", "choose from: bf16"]),
    ("collate.montage=evidense", ["collate.montage 'evidense'", "choose from: evidence"]),
    ("collate.seeds=rows", ["collate.seeds 'rows'", "choose from: row"]),
    ("collate.tile=4", ["collate", "tile must be 16 to 2048, not 4"]),
    ("collate.columns=0", ["collate", "columns must be 1 or more"]),
    ("collate.gap=-1", ["collate", "gap must be 0 to 256"]),
    ("executor.devices=[]", ["executor", "devices must name at least one"]),
    ("dataset=folder; dataset.path=' '", ["dataset", "path must not be empty"]),
    ("dataset=folder; dataset.top=0", ["dataset", "top must be 1 to 1000, not 0"]),
    ("dataset=folder; dataset.bottom=-1", ["dataset", "bottom must be 0 to 1000"]),
    ("dataset=torchvision; dataset.reference=99", ["dataset", "reference must be 100 or more"]),
    ("dataset=torchvision; dataset.name=fodler", ["dataset.name", "choose from: folder"]),
    ("executor=custom; executor.target=''", ["executor", "target must name a callable"]),
    ("executor=custom; executor.target=m.X; executor.workers=0", ["workers must be 1 or more"]),
    ("executor=custom; executor.target=m.X; executor.gpus=2", ["gpus must be 0 or 1, not 2"]),
    ("executor.attempts=0", ["executor", "attempts must be 1 or more"]),
    ("batch_size=aut", ["batch_size must be a whole number or 'auto', not 'aut'"]),
    ("batch_size=0", ["batch_size must be 1 or more"]),
    ("shard_size=0", ["shard_size must be 1 to 4096"]),
    ("image_size=0", ["image_size must be 1 to 4096"]),
    ("name=' '", ["name must not be empty"]),
    ("seeds=[]", ["seeds must not be empty"]),
    ("seeds=[a]", ["seeds[0] must be a whole number, not 'a'"]),
    ("seeds=[1,1]", ["seeds must differ"]),
    ("seeds=[9223372036854775808]", ["seeds", "9223372036854775808"]),
    ("layers=[]", ["layers must not be empty"]),
    ("models=[]", ["models must not be empty"]),
    ("models=[null]", ["models[0]", "None"]),
    ("models=[demo,demo]", ["two models are called 'demo'", "label"]),
    ("models=[{label: x}]", ["models[0].name is missing"]),
    ("models=[{name: demo, layer: [a]}]", ["'models[0].layer'", "choose from: models[0].layers"]),
    ("models=[{name: demo, input_size: 4097}]", ["models[0]", "must be 1 to 4096, not 4097"]),
    ("models=[{name: demo, mean: [0,nan,0]}]", ["models[0].mean[1] must be a number of at most"]),
    ("models=[{name: demo, input_size: 0}]", ["models[0]", "input_size must be 1 to 4096"]),
    ("models=[{name: demo, std: [0.2,0,0.2]}]", ["models[0]", "std"]),
    ("models=[{name: demo, mean: [a,b,c]}]", ["models[0].mean[0] must be a number, not 'a'"]),
    ("models=[{name: demo, args: {depth: 3}}]", ["models[0]", "args", "target"]),
]


@pytest.mark.parametrize(("override", "told"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_told_with_place_and_value(override: str, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        composed(*override.split("; "))
    for words in told:
        assert words in str(caught.value)
