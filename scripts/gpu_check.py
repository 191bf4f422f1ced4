"""What `gpu_check.sh` runs: each part in a process and a time of its own, one JSON at the end.

With LAYER_ATLAS_REHEARSE=1 the same parts run small and on the CPU, to try the script itself.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REHEARSE = os.environ.get("LAYER_ATLAS_REHEARSE") == "1"
NEEDED = ("torch", "torchvision", "hydra", "omegaconf", "PIL", "numpy", "h5py", "tqdm")
NEEDED += ("safetensors",)
WELCOME = ("pytest", "matplotlib", "lucent", "torch_dreams")
Facts = dict[str, Any]

MONTAGE, LOGS = "montage.png", "logs.tar.gz"

GRACE_SECONDS = 20.0
"""Time for a part to end by itself after its limit."""

GPU_TESTS = "tests/visualization/optimization/test_cuda_graphs.py"
"""Named, because collecting all tests needs packages that a borrowed machine lacks."""


def main() -> int:
    """Run all parts; returns 0 if each of them went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for what is found")
    out: Path = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    facts: Facts = {"rehearsal": REHEARSE, "missing": missing()}
    lacking = [name for name in NEEDED if name in facts["missing"]]
    if lacking:
        print(f"missing packages: {', '.join(lacking)}; nothing can be run", file=sys.stderr)
    elif not REHEARSE and not has_gpu():
        remedy = "LAYER_ATLAS_REHEARSE=1 rehearses on the CPU"
        print(f"torch sees no GPU here; {remedy}", file=sys.stderr)
        lacking = ["a GPU"]
    else:
        facts["parts"] = {name: run_part(name, part, out) for name, part in PARTS.items()}
    (out / "gpu_check.json").write_text(json.dumps(facts, indent=1))
    pack_logs(out)
    print(f"written: {out / 'gpu_check.json'}")
    return 0 if not lacking and all(p["ok"] for p in facts["parts"].values()) else 1


def pack_logs(out: Path) -> None:
    """Pack everything but the summary and the montage into one archive: few files travel."""
    others = [p for p in out.iterdir() if p.name not in ("gpu_check.json", MONTAGE, LOGS)]
    with tarfile.open(out / LOGS, "w:gz") as archive:
        for path in others:
            archive.add(path, path.name)
    for path in others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def missing() -> list[str]:
    """Packages that cannot be imported here."""
    return [name for name in (*NEEDED, *WELCOME) if importlib.util.find_spec(name) is None]


def has_gpu() -> bool:
    """Whether torch can use a GPU, asked in a process of its own."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run_part(name: str, part: Callable[[Path], Facts], out: Path) -> Facts:
    """Run a part; whatever goes wrong in it is noted and does not stop the others."""
    print(f"--- {name}")
    started = time.monotonic()
    try:
        facts = part(out)
    except Exception as error:  # noqa: BLE001 - the others are still worth having
        facts = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    facts["seconds"] = round(time.monotonic() - started, 1)
    summary = {k: v for k, v in facts.items() if k not in ("benchmark", "manifest")}
    print(json.dumps(summary, indent=1))
    return facts


def call(log: Path, limit: float, *argv: str) -> Facts:
    """Run a Python command for at most `limit` seconds, its output in a log."""
    with open(log, "w") as output:
        command = [sys.executable, *argv]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = f"stopped after {limit:g} s"
            process.terminate()  # a sweep then commits what it has made
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    tail = log.read_text(errors="replace").strip().splitlines()[-12:]
    return {"ok": code == 0, "exit": code, "tail": tail}


# --- parts ---------------------------------------------------------------------------------------


def gpu_tests(out: Path) -> Facts:
    """The tests that need a GPU."""
    if "pytest" in missing():
        return {"ok": False, "error": "package pytest is missing"}
    # Exit code 5, nothing collected, is no success either.
    plain = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--noconftest"]
    return call(out / "tests.log", 100, "-m", "pytest", *plain, GPU_TESTS)


def benchmark(out: Path) -> Facts:
    """Step against floor, as in the issue's table; the other tools too where they are there."""
    folder = out / "benchmark"
    size, batch, channels = ("64", "8", "0:8") if REHEARSE else ("224", "256", "0:256")
    network = ["--model", "resnet50", "--weights", "none", "--layers", "layer3.5.conv3"]
    amount = ["--channels", channels, "--image-size", size, "--batch", batch, "--repeats", "3"]
    device = "cpu" if REHEARSE else "cuda"
    systems = ["--systems", "ours,floor", "--ours", "standard"]
    where = ["--device", device, "--out", str(folder)]
    argv = ["scripts/benchmark.py", *network, *amount, *systems, *where]
    facts = call(out / "benchmark.log", 120, *argv)
    if facts["ok"]:
        facts["benchmark"] = json.loads((folder / "benchmark.json").read_text())
    return facts


def arithmetic(out: Path) -> Facts:
    """The fraction of the measured GEMM rate that a step of ResNet-50's layer4 reaches."""
    facts = call(out / "arithmetic.log", 60, "scripts/gpu_arithmetic.py", *(["cpu"] * REHEARSE))
    if facts["ok"]:
        facts |= json.loads(facts["tail"][-1])
    return facts


def slice_of_a_sweep(out: Path) -> Facts:
    """A part of every convolution of ResNet-50, end to end with photographs, atlas and montages."""
    root = out / "sweep"
    channels = "{random: 2}" if REHEARSE else "{random: 128}"
    argv = ["-m", "layer_atlas", "run", f"output_root={root}", "name=slice", "models=[resnet50]"]
    argv += ["weights=none", f"channels={channels}", "quality=standard"]
    # Noise for photographs: what is looked at is that, and how fast, they are shown.
    pictures = 64 if REHEARSE else 512
    argv += ["dataset=torchvision", "dataset.dataset=FakeData", "dataset.examples=0"]
    argv += [f"dataset.args={{size: {pictures}, image_size: [3, 256, 256]}}"]
    if REHEARSE:
        argv += ["image_size=64", "layers=[layer1.*@Conv2d]", "optimizer.steps=2"]
    started = time.monotonic()
    facts = call(out / "sweep.log", 200, *argv)
    facts["wall_seconds"] = round(time.monotonic() - started, 2)
    folder = root / "slice"
    # Of a sweep that was stopped at its limit, this is what is known.
    facts["status"] = call(out / "status.log", 60, *argv[:2], "status", *argv[3:5])["tail"]
    if (folder / "manifest.json").exists():
        facts["manifest"] = json.loads((folder / "manifest.json").read_text())
    for montage in sorted(folder.rglob("montages/*/*.png"))[-1:]:
        shutil.copy(montage, out / MONTAGE)
    shutil.rmtree(root, ignore_errors=True)
    return facts


PARTS: dict[str, Callable[[Path], Facts]] = {
    "gpu_tests": gpu_tests,
    "benchmark": benchmark,
    "arithmetic": arithmetic,
    "slice_of_a_sweep": slice_of_a_sweep,
}

if __name__ == "__main__":
    sys.exit(main())
