"""Make a virtual environment with halfstep, its tools and the exact versions of constraints.txt.

    python3 tools/install.py .venv

PyTorch's default build for Linux brings several GB of CUDA libraries. Where they would be of no use (no NVIDIA GPU),
its CPU build is taken from PyTorch's own index instead. Needs only the standard library.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_PREFIXES = ("nvidia-", "cuda-")


def pinned(package: str) -> str:
    """The line of constraints.txt that pins `package`, such as `torch==2.13.0`."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{package}=="):
            return line
    raise SystemExit(f"halfstep: {CONSTRAINTS} does not pin {package}: add a line '{package}==VERSION'.")


def brings_cuda(report: dict[str, Any]) -> bool:
    """Whether the installation that `pip install --report` describes contains CUDA libraries."""
    names = (re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower() for item in report["install"])
    return any(name.startswith(CUDA_PREFIXES) for name in names)


def index_options(report: dict[str, Any], *, has_gpu: bool) -> list[str]:
    """pip's options that keep CUDA libraries off a machine without an NVIDIA GPU; none where none are coming."""
    return ["--extra-index-url", CPU_INDEX] if brings_cuda(report) and not has_gpu else []


def has_nvidia_gpu() -> bool:
    """Whether the driver's nvidia-smi is here and lists a GPU."""
    return bool(shutil.which("nvidia-smi")) and "GPU " in output_of("nvidia-smi", "-L")


def output_of(*command: str) -> str:
    """What a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except OSError:
        return ""
    return done.stdout


def make_venv(folder: Path) -> Path:
    """Its interpreter. An environment of another Python version is made anew."""
    try:
        import ensurepip  # noqa: F401 - Debian ships venv without it, and then `python -m venv` fails half way
        import venv
    except ImportError:
        name = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise SystemExit(
            f"halfstep: this Python ({sys.executable}) has no venv module: install it (Debian and Ubuntu: "
            f"apt install {name}), or name another Python as in `make PYTHON=/path/to/python3`."
        ) from None
    python = folder / "bin" / "python"
    if not is_this_version(python):
        venv.create(folder, clear=True, symlinks=True, with_pip=True)
    return python


def is_this_version(python: Path) -> bool:
    """Whether `python` runs, has pip, and is of the version that runs this script."""
    shown = output_of(str(python), "-c", "import sys, pip; print(sys.version_info[:2])")
    return shown.strip() == str(sys.version_info[:2])


def pip(python: Path, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the environment's pip install, without questions; a progress bar only where somebody watches."""
    quiet = [] if sys.stdout.isatty() and not capture else ["--quiet"]
    command = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        *quiet,
        *arguments,
    ]
    stdout = subprocess.PIPE if capture else None
    return subprocess.run(command, check=False, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, text=True)


def what_torch_brings(python: Path) -> dict[str, Any]:
    """pip's report on installing the pinned torch here, which downloads package descriptions only."""
    torch = pinned("torch")
    answer = pip(python, "--dry-run", "--report", "-", "--constraint", str(CONSTRAINTS), torch, capture=True)
    if answer.returncode:
        raise SystemExit(
            f"halfstep: pip found no {torch} for Python {platform.python_version()} on {platform.system()} "
            f"{platform.machine()} (its words are above): if this machine reaches the package index, PyTorch has no "
            "build for this Python, and another one must be named, as in `make PYTHON=python3.12`."
        )
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def install(folder: Path) -> None:
    """Make `folder` a complete development environment."""
    there = is_this_version(folder / "bin" / "python")
    size = "only what has changed" if there else "about 800 MB to download, 3.5 GB on disk, 2 to 8 minutes"
    print(f"halfstep: installing into {folder}: {size}.", flush=True)
    began = time.monotonic()
    python = make_venv(folder)
    if pip(python, pinned("pip")).returncode:  # an older pip downloads in a dry run all that it would install
        raise SystemExit("halfstep: pip could not update itself (its words are above): is there a network?")
    report = what_torch_brings(python)
    options = index_options(report, has_gpu=has_nvidia_gpu())
    if options:
        print(f"halfstep: no NVIDIA GPU here: PyTorch's CPU build is taken, from {CPU_INDEX}.", flush=True)
    elif brings_cuda(report):
        print(
            "halfstep: an NVIDIA GPU is here: PyTorch brings its CUDA libraries, several GB more.", flush=True
        )
    pins = ["--constraint", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
    if pip(python, *pins, *options, "--editable", f"{ROOT}[dev]").returncode:
        raise SystemExit(
            "halfstep: the installation failed (pip's words are above): run the same command again."
        )
    print(f"halfstep: installed in {time.monotonic() - began:.0f} s.", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python3 tools/install.py FOLDER")
    install(Path(sys.argv[1]).absolute())
