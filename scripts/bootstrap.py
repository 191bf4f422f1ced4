"""Make `.venv` hold what this checkout needs, then run the given command in it.

Needs Python and pip alone. Takes milliseconds when nothing changed; waits when another process is
at it; starts over when an earlier attempt was cut short.

    python3 scripts/bootstrap.py python -m layer_atlas run
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "layer-atlas-stamp"
REQUIREMENTS = ROOT / "scripts" / "requirements.txt"


def wanted() -> str:
    """What the environment is made from, as one digest."""
    sha = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    for path in (ROOT / "pyproject.toml", REQUIREMENTS):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def is_ready() -> bool:
    """Whether the environment is complete and of this checkout's requirements."""
    return STAMP.exists() and STAMP.read_text() == wanted()


def is_same_python(python: Path) -> bool:
    """Whether an environment's interpreter works and is of this version."""
    if not python.exists():
        return False
    command = [str(python), "-c", "import sys; print(sys.version)"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() == sys.version.strip()


def install() -> None:
    """Create or update the environment; the stamp comes last."""
    print("preparing .venv (once; a few minutes) ...", file=sys.stderr)
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    if not is_same_python(python):
        venv.create(VENV, with_pip=False, clear=True)
    # The pip at hand installs into the environment: some systems have no pip to put into it.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    pip += ["install", "-qq"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    STAMP.write_text(wanted())


def main() -> None:
    """Install if need be, then become the command."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is where older versions are met
        sys.exit(f"Layer Atlas needs Python 3.11 or newer; python3 is {sys.version.split()[0]}.")
    if not is_ready():
        with open(ROOT / ".venv.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready():
                install()
    program, *arguments = sys.argv[1:]
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.execv(VENV / "bin" / program, [program, *arguments])


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"installing the requirements failed: {error}")
