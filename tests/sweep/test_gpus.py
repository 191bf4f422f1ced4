"""GPUs are tried in a child process: real reasons, children that crash, hang or talk nonsense."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from layer_atlas.config.executors import InProcessSettings, LocalSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import Device
from layer_atlas.sweep import gpus
from layer_atlas.sweep.gpus import Gpu, try_gpus, visible_gpus
from layer_atlas.sweep.planning import devices
from layer_atlas.sweep.planning.devices import WorkerDevice, find_devices, resolve_precision

H200 = Device("NVIDIA H200", "9.0", {"CUDA": "13.0", "cuDNN": "91900"})
V100 = Device("Tesla V100", "7.0")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands for the child; it gets the numbers of the GPUs."""
    script = tmp_path / "child.py"
    run = subprocess.run

    def instead(argv: list[str], **options: object) -> object:
        assert argv[:4] == [sys.executable, "-P", "-m", "layer_atlas.sweep.gpus"]
        return run([sys.executable, str(script), *argv[4:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", instead)
    return script


def says(script: Path, body: str) -> None:
    head = """
    import os, signal, sys, time
    def tell(index, trouble=""):
        print('{"index": %d, "device": null, "trouble": "%s"}' % (index, trouble), flush=True)
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(body))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_real_child_reports_the_reason_of_torch() -> None:
    (tried,) = try_gpus([0])
    assert tried.index == 0
    assert tried.device is None
    assert "NVIDIA driver" in tried.trouble or "CUDA" in tried.trouble
    assert "\n" not in str(tried)


def test_every_gpu_is_tried_whatever_becomes_of_the_others(child: Path) -> None:
    says(
        child,
        """
        for index in map(int, sys.argv[1:]):
            if index == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            if index == 3:
                sys.exit("cannot")
            tell(index, "is ill" if index == 2 else "")
        """,
    )
    tried = try_gpus(range(5))
    assert [gpu.index for gpu in tried] == [0, 1, 2, 3, 4]
    assert [gpu.trouble for gpu in tried] == [
        "",
        "trying it ended with SIGSEGV",
        "is ill",
        "trying it ended with exit code 1: cannot",
        "",
    ]


def test_a_gpu_that_does_not_answer_is_given_up(
    child: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_START_SECONDS", 1.0)
    monkeypatch.setattr(gpus, "SECONDS_PER_GPU", 0.0)
    says(
        child,
        """
        for index in map(int, sys.argv[1:]):
            if index == 1:
                sys.stdout.write('{"index": 1, ')  # half a line is no answer
                sys.stdout.flush()
                time.sleep(60)
            tell(index)
        """,
    )
    assert [gpu.trouble for gpu in try_gpus([0, 1, 2])] == ["", "no answer within 1 s", ""]


REASONS = {
    "The NVIDIA driver on your system is too old (found version 11040).": "update the driver",
    "CUDA error: no kernel image is available for execution on the device": "has kernels for it",
    "CUDA error: all CUDA-capable devices are busy or unavailable": "exclusive mode",
    "CUDA out of memory. Tried to allocate 2.00 MiB.": "nvidia-smi",
    "CUDA error: uncorrectable ECC error encountered\nmore": "reset or replace it",
    "Torch not compiled with CUDA enabled": "install a torch with CUDA",
    "something that nobody has seen": "something that nobody has seen",
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_kind_of_trouble_has_its_remedy(
    reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(index: int) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(gpus, "_compute", fails)
    gpus.main(["4"])
    (line,) = capsys.readouterr().out.splitlines()
    assert '"index": 4' in line
    assert reason.splitlines()[0] in line
    assert REASONS[reason] in line


def test_a_gpu_that_computes_wrongly_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(torch, "device", lambda *_: "cpu")
    gpus._compute(0)
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *args: 1.01 * convolve(*args))
    with pytest.raises(RuntimeError, match="computes wrongly"):
        gpus._compute(0)


# --- what is made of it --------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[int, Gpu]:
    """The GPUs of this machine, by number."""
    there: dict[int, Gpu] = {}
    monkeypatch.setattr(devices, "visible_gpus", lambda: range(len(there)))
    monkeypatch.setattr(devices, "try_gpus", lambda indices: [there[i] for i in indices])
    return there


def test_auto_leaves_out_what_does_not_work(
    found: dict[int, Gpu], caplog: pytest.LogCaptureFixture
) -> None:
    found.update({0: Gpu(0, H200), 1: Gpu(1, V100, "no kernels"), 2: Gpu(2, H200)})
    assert find_devices(LocalSettings()) == [
        WorkerDevice("cuda:0", H200),
        WorkerDevice("cuda:2", H200),
    ]
    assert find_devices(InProcessSettings()) == [WorkerDevice("cuda:0", H200)]
    assert "not used: cuda:1 (Tesla V100, capability 7.0): no kernels" in caplog.text


def test_a_machine_whose_gpus_all_fail_does_not_compute_on_its_cpu_in_silence(
    found: dict[int, Gpu],
) -> None:
    found.update({0: Gpu(0, H200, "driver too old"), 1: Gpu(1, None, "no answer")})
    with pytest.raises(UserError, match=r"no GPU works: .*too old; cuda:1: no answer.*devices=cpu"):
        find_devices(LocalSettings())
    assert [device.name for device in find_devices(LocalSettings(devices="cpu"))] == ["cpu"]


def test_a_gpu_that_is_named_must_work(found: dict[int, Gpu]) -> None:
    found.update({0: Gpu(0, H200), 1: Gpu(1, V100, "no kernels")})
    named = find_devices(LocalSettings(devices=("cuda", "cuda:0", "cpu")))
    assert [device.name for device in named] == ["cuda:0", "cuda:0", "cpu"]
    with pytest.raises(UserError, match=r"cuda:1 \(Tesla V100.*no kernels\. Choose other"):
        find_devices(LocalSettings(devices=("cuda:0", "cuda:1")))


def test_only_the_named_ones_are_tried(
    found: dict[int, Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    found.update({0: Gpu(0, H200), 1: Gpu(1, H200)})
    monkeypatch.setattr(devices, "try_gpus", lambda i: tried.extend(i) or [found[k] for k in i])
    find_devices(LocalSettings(devices="cuda:1"))
    find_devices(LocalSettings(devices="cpu"))
    assert tried == [1]


@pytest.mark.parametrize("name", ["mps", "xpu:0"])
def test_other_accelerators_are_refused_by_name(name: str, found: dict[int, Gpu]) -> None:
    with pytest.raises(UserError, match=rf"{name}.*NVIDIA and AMD GPUs and on CPUs alone"):
        find_devices(LocalSettings(devices=name))


def test_other_accelerators_are_reported_where_the_cpu_is_used(
    found: dict[int, Gpu], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert {device.name for device in find_devices(LocalSettings())} == {"cpu"}
    assert "Apple GPUs (MPS) found, which are not supported; computing on the CPU" in caplog.text


def test_bf16_is_for_gpus_that_all_have_it() -> None:
    new, old = WorkerDevice("cuda:0", H200), WorkerDevice("cuda:1", V100)
    assert resolve_precision("auto", [new, new]) == "bf16"
    assert resolve_precision("auto", [new, old]) == "fp32"


def test_a_driver_that_torch_cannot_use_leaves_a_device_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpus, "Path", lambda folder: tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for variable in gpus.VISIBLE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert list(visible_gpus()) == [0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert list(visible_gpus()) == []
