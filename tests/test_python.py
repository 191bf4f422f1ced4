"""From Python: modules in memory, the bits of a sweep, and a program that is left as it was."""

import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same_atlas, atlas, driven_here, shards
from torch import Tensor, nn

import layer_atlas
from layer_atlas import UserError
from layer_atlas.presentation.notebook import open_atlas
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest
from layer_atlas.sweep.api import Visualization
from layer_atlas.visualization.optimization.cuda_graphs import CaptureFailed
from layer_atlas.visualization.optimization.renderer import LayerRenderer

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.second = nn.Conv2d(width, 5, 3)
        self.gain = 1.0

    def forward(self, x):
        return self.gain * self.second(self.drop(self.first(x))).mean((2, 3))
"""

QUICK: dict[str, Any] = {
    "image_size": 16,
    "optimizer.steps": 3,
    "optimizer.leaky_steps": 1,
    "precision": "fp32",  # `auto` is what is faster at the time, and bits are compared
}
TRAINED: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


class Net(nn.Module):
    """The same network, defined here."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.second = nn.Conv2d(6, 5, 3)
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.second(self.drop(self.first(x))).mean((2, 3))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary folders of visualizations below the test's own; nothing in the working folder."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    assert not list((tmp_path / "cwd").glob("outputs*")), "something was written unasked"


def show(model: nn.Module, **settings: Any) -> Visualization:
    return layer_atlas.visualize(model, **{"layers": "first.0", **TRAINED, **QUICK, **settings})


# --- visualize -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_call_gives_images_statistics_and_a_contact_sheet(net: nn.Module) -> None:
    result = show(net, layers=["first.0", "second"], channels=range(3), seeds=[0, 7])
    assert result.images["first.0"].shape == (3, 2, 16, 16, 3)
    assert result.images["first.0"].dtype == np.uint8
    assert isinstance(result["second"].image(2, seed=7), Image.Image)
    assert len(result.to_frame()) == 2 * 3 * 2
    assert (result["second"]["activation"] != 0).all()
    sheet = result._repr_html_()
    assert sheet.count("data:image/png;base64,") == 6
    assert all(f">{channel}</figcaption>" in sheet for channel in (0, 1, 2))
    assert list(result.models) == ["Net"]


@pytest.mark.slow
def test_the_bits_are_those_of_a_sweep_that_builds_the_network_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "atlas_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = (
        "models=[{name: Net, target: atlas_net.Net, mean: [0.5,0.5,0.5], std: [0.25,0.25,0.25]}]"
    )
    settings = [f"{key}={value}" for key, value in QUICK.items()]
    code, said = atlas(
        "run", tmp_path, "name=swept", model, "layers=[first.0,second]", "seeds=[0,7]",
        "shard_size=4", "executor.devices=[cpu,cpu]", *settings,
    )  # fmt: skip
    assert code == 0, said
    from atlas_net import Net as Same  # type: ignore[import-not-found]

    torch.manual_seed(0)  # as a sweep builds it
    result = show(Same(), layers=["first.0", "second"], seeds=[0, 7])
    # Other workers, another number of threads, other shards: the same bytes of every dataset.
    assert_same_atlas(tmp_path / "swept" / "atlas.h5", result.path)


def state_of(module: nn.Module) -> list[Any]:
    parts = [
        (name, part.training, len(part._forward_hooks), sorted(vars(part)))
        for name, part in module.named_modules()
    ]
    tensors = [*module.named_parameters(), *module.named_buffers()]
    numbers = [
        (name, t.data_ptr(), t.dtype, t.device, t.requires_grad, t._version, t.detach().tolist())
        for name, t in tensors
    ]
    grads = [None if p.grad is None else p.grad.tolist() for p in module.parameters()]
    return [parts, numbers, grads]


def state_of_torch() -> list[Any]:
    from torch._dynamo import eval_frame

    cudnn = torch.backends.cudnn
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        *(torch.get_num_threads(), torch.get_float32_matmul_precision()),
        torch.backends.mha.get_fastpath_enabled(),
        *(cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        torch.are_deterministic_algorithms_enabled(),
        eval_frame._stance,
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
    ]


@pytest.mark.slow
def test_module_and_program_are_left_as_they_were_and_training_goes_on(net: nn.Module) -> None:
    def step(model: nn.Module) -> list[float]:
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(torch.rand(4, 3, 12, 12)).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    undisturbed = Net()
    undisturbed.load_state_dict(net.state_dict())
    net.second.requires_grad_(False)
    undisturbed.second.requires_grad_(False)
    step(net), step(undisturbed)
    net.drop.register_forward_hook(lambda *_: None)
    cudnn = torch.backends.cudnn
    before_cudnn = cudnn.benchmark
    cudnn.benchmark = True
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        before, torch_before = state_of(net), state_of_torch()
        show(net)
        assert state_of(net) == before
        assert state_of_torch() == torch_before
    finally:
        cudnn.benchmark = before_cudnn
    assert step(net) == step(undisturbed)
    assert net.training


ALONE = """
import sys
import layer_atlas
from torch import nn
small = {"optimizer.steps": 1, "optimizer.starts": 1, "optimizer.leaky_steps": 0}
given = {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 16, **small}
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
"""


def alone(code: str, folder: Path) -> None:
    """Run Python in a process of its own, with its temporary files in a folder."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-c", ALONE + code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_visualizing_does_without_torchs_compiler(tmp_path: Path) -> None:
    """It takes as long to import as torch itself, and leaves a temporary folder behind."""
    code = """
layer_atlas.visualize(network, "2", 0, **given)
assert not {"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()
"""
    alone(code, tmp_path / "temporary")
    assert not list((tmp_path / "temporary").iterdir()), "a folder is left behind"


@pytest.mark.slow
def test_a_network_that_brings_torchs_compiler_leaves_it_as_it_was(tmp_path: Path) -> None:
    code = """
import torch
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network

    def forward(self, x):
        return torch.compile(self.inner, backend="eager")(x)

layer_atlas.visualize(Own(), "inner.2", 0, **given)
from torch._dynamo import eval_frame
assert eval_frame._stance.stance == "default"
"""
    alone(code, tmp_path / "temporary")


@pytest.mark.slow
def test_dropout_and_batch_norm_of_a_module_in_training_are_those_of_eval(net: nn.Module) -> None:
    trained = show(net.train()).images["first.0"]
    assert np.array_equal(trained, show(net.eval()).images["first.0"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_what_surrounds_the_call_does_not_matter(net: nn.Module, around: Any) -> None:
    expected = show(net, layers="second").images["second"]
    with around:
        images = show(net, layers="second").images["second"]
    assert np.array_equal(images, expected)


@pytest.mark.slow
def test_a_program_in_float64_gets_the_same(net: nn.Module) -> None:
    expected = show(net, layers="second").images["second"]
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(show(net, layers="second").images["second"], expected)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_modules_that_can_be_neither_pickled_nor_copied(net: nn.Module, tmp_path: Path) -> None:
    expected = show(net, layers="second").images["second"]
    net.note = lambda x: x  # type: ignore[assignment]
    net.lock = threading.Lock()  # type: ignore[assignment]
    net.log = (tmp_path / "log").open("w")  # type: ignore[assignment]
    net.second.last = net.second.weight * 2  # type: ignore[assignment]
    before = state_of(net)
    result = show(net, layers="second")
    assert np.array_equal(result.images["second"], expected)
    assert state_of(net) == before
    net.log.close()  # type: ignore[operator]


@pytest.mark.slow
def test_wrapped_and_compiled_modules_are_unwrapped(net: nn.Module) -> None:
    expected = show(net).images["first.0"]
    assert np.array_equal(show(nn.DataParallel(net)).images["first.0"], expected)
    assert np.array_equal(show(torch.compile(net)).images["first.0"], expected)  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_works_in_another_thread(net: nn.Module) -> None:
    found: list[Visualization] = []
    thread = threading.Thread(target=lambda: found.append(show(net)))
    thread.start()
    thread.join()
    assert np.array_equal(found[0].images["first.0"], show(net).images["first.0"])


@pytest.mark.slow
def test_preprocessing_is_never_assumed_in_silence(
    net: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    layer_atlas.visualize(net, "first.0", 0, **QUICK)
    assert "(0.485, 0.456, 0.406)" in (said := capsys.readouterr().err)
    assert "ImageNet default, assumed" in said
    net.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": (3, 20, 20)}  # type: ignore[assignment]
    result = layer_atlas.visualize(net, "first.0", 0, **{**QUICK, "image_size": None})
    assert result.images["first.0"].shape[2:4] == (20, 20)
    said = capsys.readouterr().err
    assert "mean (0.5, 0.5, 0.5), std (0.2, 0.2, 0.2), input size 20 px: timm's config" in said
    show(net, channels=0, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_ranges_arrays_and_numbers_choose_channels(net: nn.Module) -> None:
    def chosen(channels: Any) -> list[int]:
        return show(net, channels=channels)["first.0"].channels

    assert chosen(range(1, 6, 2)) == [1, 3, 5]
    assert chosen(np.asarray([4, 2])) == [2, 4]
    assert chosen(torch.tensor([0])) == [0]
    assert chosen(np.int64(3)) == [3]


@pytest.mark.slow
def test_a_choice_and_its_values_stand_together(net: nn.Module) -> None:
    result = show(net, channels=0, objective={"name": "channel", "sign": "both"})
    assert result["first.0"].variants == ["positive", "negative"]
    logits = show(net, layers=None, channels=[1], objective="logit", quality="draft")
    assert logits["output"].recipe["objective"]["name"] == "logit"


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"imagesize": 3}, "unknown config key 'imagesize'; choose from: image_size"),
        ({"quality": "drft"}, "unknown quality choice 'drft'; choose from: draft"),
        ({"optimizer": {"stpes": 3}}, "'optimizer.stpes'; choose from: optimizer.steps"),
        ({"layers": "frist.0"}, "'frist.0'.*first.0"),
        ({"layers": None}, "layers must name the layers.*first, first.0"),
        ({"channels": [77]}, "channel 77 is out of range"),
        ({"mean": [0.5]}, "mean.*std"),
        ({"device": "cuda:99"}, "'cuda:99' is not on this machine"),
        ({"objective": {"name": "custom", "function": print}}, "objective.function must be plain"),
        ({"models": []}, "no 'models'"),
        ({"executor": "slurm"}, "no 'executor': device"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message_that_nothing_buries(
    net: nn.Module, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        show(net, **arguments)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hydra" not in shown
    assert "The above exception" not in shown
    assert "During handling" not in shown
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert len(frames) <= 3, frames
    assert not list((tmp_path / "temporary").iterdir()), "a folder is left behind"


def test_the_size_that_a_network_takes_is_named() -> None:
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))
    with pytest.raises(UserError, match="It runs on 32 x 32 px: image_size=32"):
        layer_atlas.visualize(fixed, "0", 0, **{**QUICK, "image_size": 64})
    with pytest.raises(UserError, match=r"convolution takes 1\. Give the mean and std"):
        layer_atlas.visualize(nn.Conv2d(1, 2, 3), "0", 0, **QUICK)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"takes a torch.nn.Module, not str"):
        layer_atlas.visualize("resnet18", layers="layer1")  # type: ignore[arg-type]


class Failing(Net):
    """Fails once it is optimized."""

    def forward(self, x: Tensor) -> Tensor:
        is_worker = threading.current_thread() is not threading.main_thread()
        if is_worker and x.requires_grad:
            raise RuntimeError("no more")
        return super().forward(x)


def test_a_failed_capture_is_reported_with_the_remedy(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CaptureFailed("operation not permitted when stream is capturing")

    monkeypatch.setattr(LayerRenderer, "make", fail)
    with pytest.raises(UserError, match=r"stream is capturing.*LAYER_ATLAS_CUDA_GRAPHS=0"):
        show(net, layers="second")


def test_a_network_that_fails_is_named_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)could not be made.*RuntimeError: no more"):
        show(Failing(), layers="second")
    assert not list((tmp_path / "temporary").iterdir())


def test_ctrl_c_stops_at_the_next_step(net: nn.Module, tmp_path: Path) -> None:
    def press() -> None:
        folder = tmp_path / "temporary"
        for _ in range(600):
            if list(folder.glob("*/atlas/logs/*.heartbeat")):
                break
            threading.Event().wait(0.05)
        threading.Event().wait(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        show(net, image_size=64, **{"optimizer.steps": 1000})
    thread.join()
    assert not list((tmp_path / "temporary").iterdir())


# --- temporary folders ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_folder_lives_as_long_as_the_result_unless_it_is_saved(
    net: nn.Module, tmp_path: Path
) -> None:
    result = show(net, channels=[0, 2])
    folder, image = result.path.parent, result["first.0"].pixels(2)
    assert folder.is_relative_to(tmp_path / "temporary")
    assert result.save(tmp_path / "kept") == tmp_path / "kept"
    with pytest.raises(UserError, match="exists already"):
        result.save(tmp_path / "kept")
    result.close()
    del result
    gc.collect()
    assert not folder.exists()
    assert np.array_equal(open_atlas(tmp_path / "kept")["first.0"].pixels(2), image)
    assert (tmp_path / "kept" / "montages" / "Net" / "first.0.png").exists()
    assert (tmp_path / "kept" / "site" / "index.html").exists()
    code, said = driven_here("status", tmp_path, "name=kept")
    assert code == 0
    assert "2 of 2 images done" in said
    code, said = driven_here("verify", tmp_path, "name=kept")
    assert code == 0, said
    assert "module in memory" in said


# --- run -----------------------------------------------------------------------------------------


def sweep(root: Path, model: Any, **settings: Any) -> layer_atlas.run:  # type: ignore[valid-type]
    entry = {"name": "mine", "target": model, **TRAINED}
    given = {"name": "x", "output_root": root, "models": [entry], "layers": "first.0", **QUICK}
    return layer_atlas.run({**given, "collate": {"site": False}, **settings})


@pytest.mark.slow
def test_a_sweep_of_a_module_in_memory_resumes_with_the_same_module_alone(
    net: nn.Module, tmp_path: Path
) -> None:
    assert sweep(tmp_path, net).exit_code == 0
    folder = tmp_path / "x"
    first = shards(folder)
    manifest = read_manifest(OutputFolder(folder))
    assert manifest["config"]["models"][0]["target"] == "memory:mine"
    assert manifest["plan"]["models"][0]["origin"]["weights"] == "weights of the module in memory"
    again = sweep(tmp_path, net)
    assert shards(folder) == first, "made again"
    assert again.atlas["first.0"].channels == list(range(6))
    # Another recipe or other weights: other images, the old ones are not reused.
    with torch.no_grad():
        net.first[0].weight += 0.1
    assert sweep(tmp_path, net).exit_code == 0
    second = shards(folder)
    assert first.items() < second.items()
    # The same weights and code that compute something else: refused.
    net.gain = 3.0  # type: ignore[assignment]
    assert sweep(tmp_path, net, layers="second").exit_code == 0
    net.second.padding = (1, 1)  # type: ignore[assignment]
    with pytest.raises(UserError, match="computes something else"):
        sweep(tmp_path, net, layers="second")


@pytest.mark.slow
def test_a_run_takes_a_mapping_a_file_or_a_config(tmp_path: Path) -> None:
    settings = {"name": "d", "output_root": str(tmp_path), "layers": ["conv1"], "channels": "0:2"}
    small = {**QUICK, "collate.site": False, "executor.devices": ["cpu"]}
    result = layer_atlas.run(settings, **small)
    assert (result.exit_code, result.folder) == (0, tmp_path / "d")
    first = result.atlas["demo/conv1"].pixels(1)
    file = tmp_path / "my.yaml"
    file.write_text(f"name: e\noutput_root: {tmp_path}\nlayers: conv1\nchannels: '0:3'\n")
    other = layer_atlas.run(file, channels=[1], **small)
    assert other.atlas["conv1"].channels == [1]
    assert np.array_equal(other.atlas["conv1"].pixels(1), first)
    with pytest.raises(UserError, match=r"my.yml.*does not exist"):
        layer_atlas.run("my.yml")
    file.write_text("nmae: e\n")
    with pytest.raises(UserError, match=r"unknown config key 'nmae'.*my.yaml"):
        layer_atlas.run(file)


def test_modules_in_memory_do_not_leave_this_process(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="executor=slurm starts processes"):
        sweep(tmp_path, net, executor="slurm")
    with pytest.raises(UserError, match="two modules in memory are called 'Net'"):
        layer_atlas.run({"models": [net, net], "output_root": tmp_path})
    with pytest.raises(UserError, match="args are for a callable"):
        layer_atlas.run({"models": [{"target": net, "args": {"a": 1}}], "output_root": tmp_path})


@pytest.mark.slow
def test_another_process_says_that_the_module_was_in_memory(net: nn.Module, tmp_path: Path) -> None:
    assert sweep(tmp_path, net).exit_code == 0
    model = "models=[{name: mine, target: 'memory:mine'}]"
    code, said = driven_here("run", tmp_path, "name=x", model, "image_size=16")
    assert code == 2
    assert "was a module in memory" in said


# --- scripts -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_script_needs_no_guard_and_shows_progress(tmp_path: Path) -> None:
    code = (
        f"{NET}\nimport layer_atlas\n"
        "result = layer_atlas.visualize(Net(), layers='second', channels=[0, 1],\n"
        "    image_size=16, **{'optimizer.steps': 3})\n"
        "print(result)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Net/second: 2 channels" in done.stdout
    # A slow machine also names the step that it is busy with.
    lines = [line for line in done.stderr.splitlines() if not line.endswith(" so far")]
    assert "\n".join(lines).startswith(
        "checking: Net\nmodel: Net, weights of the module in memory; mean"
    )
    assert "Warning" not in done.stderr
