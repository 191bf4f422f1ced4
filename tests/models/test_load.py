"""Models: frozen networks from names, files and callables; every mistake told, no code executed."""

import hashlib
import io
import os
import pickle
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as zoo
from toys import composed

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.models.activations import plain_activations
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.plan import Plan
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice

State = dict[str, Tensor]


def build_net(width: int = 4, stride: int = 1) -> nn.Module:
    """What `target: tests.models.test_load.build_net` returns."""
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=stride), nn.ReLU(), nn.Conv2d(width, 2, 1))


def load(**entry: Any) -> Network:
    return load_network(
        ModelConfig(**{"name": "net", "target": "tests.models.test_load.build_net", **entry})
    )


def state(width: int = 4, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    values = build_net(width).state_dict()
    return {name: torch.rand(t.shape, generator=generator) for name, t in values.items()}


def told(**entry: Any) -> str:
    """The message that loading this model ends in."""
    with pytest.raises(UserError) as caught:
        load(**entry)
    return str(caught.value)


def assert_holds(network: Network, expected: State) -> None:
    found = network.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- names ---------------------------------------------------------------------------------------


def test_torchvision_network_is_frozen_and_has_its_preprocessing() -> None:
    network = load(name="squeezenet1_1", target=None, weights="none")
    assert network.source == "torchvision/squeezenet1_1"
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())
    assert (network.mean, network.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert network.input_size == 224
    assert network.missing == ()
    mine = load(
        name="squeezenet1_1",
        target=None,
        weights="none",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        input_size=99,
        label="mine",
    )
    assert (mine.mean, mine.std, mine.input_size) == ((0.0,) * 3, (1.0,) * 3, 99)
    assert (mine.label, mine.source) == ("mine", network.source)


def test_random_weights_are_the_same_every_time_and_disturb_nobody() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load(weights="none")
    assert torch.equal(torch.rand(3), expected)
    assert load(weights="none").weights_sha256 == first.weights_sha256


def test_example_is_the_same_every_time() -> None:
    network = load(weights="none")
    assert network.example((20, 20)).shape == (1, 3, 20, 20)
    assert torch.equal(network.example((20, 20)), load(weights="none").example((20, 20)))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"name": "resnet5", "target": None},
            ["unknown model 'resnet5'", "choose from: resnet50", "target"],
        ),
        (
            {"name": "squeezenet1_1", "target": None, "weights": "IMAGENET1K_V2"},
            ["SqueezeNet1_1_Weights", "'IMAGENET1K_V2'", "choose from: IMAGENET1K_V1", ".pth"],
        ),
        (
            {"name": "squeezenet1_1", "target": None, "weights": "weights.txt"},
            ["'weights.txt'", ".safetensors, .pth, .pt, .ckpt, .bin, .pkl"],
        ),
        (
            {"name": "demo", "target": None, "weights": "IMAGENET1K_V1"},
            ["weights of model 'demo'", "'IMAGENET1K_V1'", "default, none"],
        ),
        ({"weights": "IMAGENET1K_V1"}, ["weights of model 'net'", "'IMAGENET1K_V1'"]),
    ],
)
def test_unknown_names_are_told_with_the_nearest_first(
    entry: dict[str, Any], words: list[str]
) -> None:
    message = told(**entry)
    for word in words:
        assert word in message


# --- callables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["tests.models.test_load.build_net", "tests.models.test_load:build_net"]
)
def test_callable_builds_the_network_with_its_arguments(target: str) -> None:
    network = load(target=target, args={"width": 7})
    assert network.module[0].out_channels == 7
    assert not network.module.training


def test_callable_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own_networks.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Conv2d(3, 2, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(load(target="users_own_networks.build").module, nn.Conv2d)


@pytest.mark.parametrize("weights", ["default", "none"])
def test_callable_may_bring_its_weights_along(weights: str) -> None:
    network = load(target="tests.models.test_load.trained_net", weights=weights)
    assert torch.equal(network.module.weight, torch.full((2, 3, 1, 1), 0.25))


def trained_net() -> nn.Module:
    network = nn.Conv2d(3, 2, 1)
    return network.requires_grad_(False).apply(lambda m: m.weight.fill_(0.25))


def returns_a_text() -> str:
    return "network"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere.build", ["'nowhere.build'", "cannot be imported", "nowhere", "dotted name"]),
        (
            "tests.models.test_load.build_nte",
            ["'tests.models.test_load.build_nte'", "cannot be imported"],
        ),
        ("build", ["'build'", "cannot be imported"]),
        ("os.sep", ["'os.sep'", "str", "not a callable"]),
        ("tests.models.test_load.returns_a_text", ["returned str", "not a torch.nn.Module"]),
        ("torch.nn.Linear", ["'torch.nn.Linear' failed", "in_features"]),
    ],
)
def test_callable_that_does_not_work_is_told(target: str, words: list[str]) -> None:
    message = told(target=target)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "source", ["def build(:\n", "raise RuntimeError('no GPU here')\n", "raise SystemExit(3)\n"]
)
def test_module_that_cannot_be_imported_is_told(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert f"target '{name}.build' cannot be imported" in told(target=f"{name}.build")


def test_what_a_script_sets_as_it_is_imported_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import torch\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
    (tmp_path / "own_script.py").write_text(f"{text}build = lambda: torch.nn.Conv2d(3, 2, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load(target="own_script.build", weights="none")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def compiled() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    return torch.compile(net, backend="eager")  # type: ignore[no-any-return]


def test_hooks_see_inside_of_networks_that_were_compiled_and_have_run() -> None:
    network = load(target="tests.models.test_load.compiled", weights="none")
    images = network.example((9, 9))
    try:
        network.module(images)  # compiled without hooks, and from then on without a look at them
        layers = describe_layers(network.module, images)
        assert "2" in plain_activations(network.module, layers, images)
    finally:
        torch.compiler.set_stance("default")


def test_arguments_of_a_callable_are_part_of_the_identity() -> None:
    # The stride changes every image and no tensor.
    one, two = (load(args={"stride": stride}, weights="none") for stride in (1, 2))
    assert one.weights_sha256 == two.weights_sha256
    assert one.identity != two.identity


# --- identity ------------------------------------------------------------------------------------


def test_digest_is_that_of_the_weights_wherever_they_lie(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    save_file(state(), tmp_path / "b.safetensors")
    torch.save({"epoch": 3, "state_dict": state()}, tmp_path / "c.pt")
    torch.save({f"module.{k}": v for k, v in state().items()}, tmp_path / "d.pth")
    torch.save(state(), tmp_path / "e.pth", _use_new_zipfile_serialization=False)
    networks = [load(weights=str(path)) for path in sorted(tmp_path.iterdir())]
    assert len(networks) == 5
    for network in networks:
        assert_holds(network, state())
        assert network.identity == networks[0].identity


def test_digest_changes_with_the_last_bit_of_any_tensor(tmp_path: Path) -> None:
    digests = set()
    for changed in (None, *state()):
        values = state()
        if changed is not None:
            last = values[changed].view(torch.int32).flatten()
            last[-1] ^= 1
        torch.save(values, tmp_path / "w.pth")
        digests.add(load(weights=str(tmp_path / "w.pth")).weights_sha256)
    assert len(digests) == 1 + len(state())


# --- files ---------------------------------------------------------------------------------------


def saved(value: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (open, (str(self.sign), "w"))


def legacy(value: object) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


def safetensors_of(value: State, folder: Path) -> bytes:
    save_file(value, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


UNREADABLE: dict[str, tuple[str, Callable[[Path], bytes], list[str]]] = {
    "empty": ("w.pth", lambda _: b"", ["cut short or is no weights file"]),
    "empty safetensors": ("w.safetensors", lambda _: b"", ["not a readable file"]),
    "text": ("w.pth", lambda _: b"not a network\n" * 99, ["no", "weights file"]),
    "text as safetensors": ("w.safetensors", lambda _: b"text\n" * 99, ["not a readable file"]),
    "truncated": ("w.pt", lambda _: saved(state())[:-100], ["not a readable file"]),
    "truncated to a few bytes": ("w.pth", lambda _: saved(state())[:20], ["a state dict"]),
    "truncated legacy": ("w.pth", lambda _: legacy(state())[:-10], ["a state dict"]),
    "truncated safetensors": (
        "w.safetensors",
        lambda folder: safetensors_of(state(), folder)[:-10],
        ["not a readable file"],
    ),
    "code": (
        "w.pth",
        lambda folder: pickle.dumps(Trap(folder / "executed")),
        ["code", "not executed", "state_dict"],
    ),
    "code among tensors": (
        "w.pth",
        lambda folder: saved({**state(), "trap": Trap(folder / "executed")}),
        ["code", "not executed", "state_dict"],
    ),
    "code in a legacy file": (
        "w.pth",
        lambda folder: legacy({"trap": Trap(folder / "executed")}),
        ["code", "not executed", "state_dict"],
    ),
    "a module without tensors": ("w.pth", lambda _: saved(nn.ReLU()), ["a ReLU, not a state dict"]),
    "a list": ("w.pth", lambda _: saved([1, 2]), ["holds a list, not a state dict"]),
    "a tensor": ("w.pth", lambda _: saved(torch.ones(3)), ["holds a Tensor, not a state dict"]),
    "no tensors": ("w.pth", lambda _: saved({"epoch": 3}), ["holds no tensors"]),
    "another network": (
        "w.pth",
        lambda _: saved({"stem.weight": torch.ones(3)}),
        ["do not fit model 'net'", "0.weight", "another network"],
    ),
    "sparse": (
        "w.pth",
        lambda _: saved({**state(), "0.bias": state()["0.bias"].to_sparse()}),
        ["do not fit model 'net'", "0.bias is no plain array of real numbers"],
    ),
    "quantised": (
        "w.pth",
        lambda _: saved({**state(), "0.bias": quantised(state()["0.bias"])}),
        ["do not fit model 'net'", "0.bias is no plain array of real numbers"],
    ),
    "complex": (
        "w.pth",
        lambda _: saved({**state(), "0.bias": state()["0.bias"] * 1j}),
        ["do not fit model 'net'", "0.bias is no plain array of real numbers"],
    ),
    "without values": (
        "w.pth",
        lambda _: saved({**state(), "0.bias": state()["0.bias"].to("meta")}),
        ["do not fit model 'net'", "0.bias is no plain array of real numbers"],
    ),
    "another width": (
        "w.pth",
        lambda _: saved(state(width=5)),
        ["do not fit model 'net'", "0.weight is [5, 3, 3, 3] in the file and [4, 3, 3, 3]"],
    ),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about protocols and kinds of tensors
@pytest.mark.parametrize("case", UNREADABLE)
def test_file_that_holds_no_fitting_weights_is_told_and_never_executed(
    case: str, tmp_path: Path
) -> None:
    name, content, words = UNREADABLE[case]
    path = tmp_path / name
    path.write_bytes(content(tmp_path))
    with pytest.raises(UnusableFile) as caught:
        load(weights=str(path))
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (tmp_path / "executed").exists()


def test_trap_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


def test_missing_file_is_told_with_those_beside_it(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "resnet.pth")
    message = told(weights=str(tmp_path / "resnte.pth"))
    assert f"{str(tmp_path / 'resnte.pth')!r} does not exist" in message
    assert "Beside it: resnet.pth" in message
    assert "does not exist" in told(weights=str(tmp_path / "nowhere" / "w.pth"))
    assert "does not exist" in told(weights="weights.bin")


# --- files that lack tensors ---------------------------------------------------------------------


def planned(path: Path, layer: str) -> Plan:
    config = composed(
        f"models=[{{name: net, target: tests.models.test_load.build_net, weights: '{path}'}}]",
        f"layers=['{layer}']",
        "image_size=16",
        "precision=fp32",
    )
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


@pytest.mark.parametrize("lacking", ["2.weight", "2.bias"])
def test_tensors_beyond_the_layers_may_be_lacking(lacking: str, tmp_path: Path) -> None:
    values = state()
    del values[lacking]
    torch.save(values, tmp_path / "w.pth")
    assert load(weights=str(tmp_path / "w.pth")).missing == (lacking,)
    for layer in ("0", "1"):
        assert planned(tmp_path / "w.pth", layer).n_jobs == 4
    with pytest.raises(UserError, match=rf"layer '2' of model 'net' .* \(missing: {lacking}\)"):
        planned(tmp_path / "w.pth", "2")


@pytest.mark.parametrize("lacking", ["0.weight", "0.bias"])
def test_tensors_before_a_layer_may_not(lacking: str, tmp_path: Path) -> None:
    values = state()
    del values[lacking]
    torch.save(values, tmp_path / "w.pth")
    for layer in ("0", "1", "2"):
        with pytest.raises(UserError, match=rf"layer '{layer}'.*missing: {lacking}"):
            planned(tmp_path / "w.pth", layer)


# --- published weights ---------------------------------------------------------------------------

ENTRY = zoo.get_model_weights("squeezenet1_1").DEFAULT


def published(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    values = zoo.squeezenet1_1(weights=None).state_dict()
    return {name: torch.rand(t.shape, generator=generator) for name, t in values.items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of published weights, and a proxy that leads nowhere."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies it first saw
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def server(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[bytes, str], None]]:
    """Publishes a file in place of squeezenet1_1's weights."""
    root = tmp_path / "www"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()

        def publish(data: bytes, name: str) -> None:
            (root / name).write_bytes(data)
            url = f"http://127.0.0.1:{running.server_port}/{name}"
            monkeypatch.setattr(ENTRY.value, "url", url)

        yield publish
        running.shutdown()
        thread.join()


def load_published() -> Network:
    return load(name="squeezenet1_1", target=None, weights="default")


def test_weights_in_the_cache_are_used_without_a_download(hub: Path) -> None:
    torch.save(published(), hub / Path(ENTRY.url).name)
    assert_holds(load_published(), published())
    named = load(name="squeezenet1_1", target=None, weights=ENTRY.name)
    assert named.identity == load_published().identity


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda _: b"<html>login</html>" * 9], ids=["cut", "text"]
)
def test_damaged_file_in_the_cache_is_told_by_its_path(
    damage: Callable[[bytes], bytes], hub: Path
) -> None:
    path = hub / Path(ENTRY.url).name
    path.write_bytes(damage(saved(published())))
    with pytest.raises(UserError) as caught:
        load_published()
    assert "squeezenet1_1" in str(caught.value)
    assert str(path) in str(caught.value)


def test_download_that_fails_is_told_with_the_remedy(hub: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_published()
    for words in ("'squeezenet1_1'", "cannot be downloaded", "weights=path/to/", "weights=none"):
        assert words in str(caught.value)
    assert not [path for path in hub.iterdir() if path.suffix == ".pth"]


def test_download_is_checked_by_the_digest_in_its_name(
    server: Callable[[bytes, str], None], hub: Path
) -> None:
    data = saved(published(seed=3))
    server(data, f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    assert_holds(load_published(), published(seed=3))
    server(data + b"tampered", f"other-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    with pytest.raises(UserError, match="hash"):
        load_published()
