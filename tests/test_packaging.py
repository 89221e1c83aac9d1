from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
INSTALL = runpy.run_path(str(ROOT / "tools" / "install.py"), run_name="install")

# pip's own reports on torch==2.13.0, names only: PyTorch's CPU build, and the default one for Linux.
CPU_REPORT = "torch fsspec networkx setuptools sympy mpmath typing_extensions filelock Jinja2 MarkupSafe"
CUDA_REPORT = (
    "torch cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton "
    "cuda-bindings nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cufft "
    "nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-nvjitlink nvidia-nvtx cuda-pathfinder "
    "fsspec networkx setuptools sympy mpmath typing_extensions filelock Jinja2 MarkupSafe"
)


def report(names: str) -> dict:
    return {"version": "1", "install": [{"metadata": {"name": name}} for name in names.split()]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for listed in lists for line in listed]
    return [requirement for requirement in requirements if requirement.name != "halfstep"]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_constraint_is_one_exact_version(python: str):
    here = [c for c in constraints() if c.marker is None or c.marker.evaluate({"python_version": python})]
    assert all(re.fullmatch(r"==[\w.]+", str(c.specifier)) for c in here)
    assert len({normal(c.name) for c in here}) == len(here)


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_every_dependency_is_pinned_to_a_version_that_it_allows(python: str):
    pins = {
        normal(c.name): str(c.specifier).removeprefix("==")
        for c in constraints()
        if c.marker is None or c.marker.evaluate({"python_version": python})
    }
    for requirement in declared():
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            assert pins[normal(requirement.name)] in requirement.specifier, requirement


def test_torch_is_pinned_without_a_build_and_without_cuda():
    assert "torch==2.13.0" in [str(c) for c in constraints()]
    cuda = [c.name for c in constraints() if c.name.startswith(("nvidia-", "cuda-", "triton"))]
    assert cuda == ["nvidia-ml-py"]  # pure Python, 50 kB, ours: it reads a GPU's energy


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_torch_without_cuda_is_taken_as_it_comes(has_gpu: bool):
    assert INSTALL["index_options"](report(CPU_REPORT), has_gpu=has_gpu) == []
    assert INSTALL["index_options"](report(""), has_gpu=has_gpu) == []  # it is installed already


def test_cuda_libraries_are_kept_off_a_machine_without_a_gpu():
    options = INSTALL["index_options"](report(CUDA_REPORT), has_gpu=False)
    assert options == ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    assert INSTALL["index_options"](report(CUDA_REPORT), has_gpu=True) == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-0)'", True),
        ("echo 'NVIDIA-SMI has failed'; exit 9", False),
        ("exit 0", False),
        (None, False),
    ],
)
def test_a_gpu_is_one_that_nvidia_smi_lists(script: str | None, expected: bool, tmp_path: Path, monkeypatch):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert INSTALL["has_nvidia_gpu"]() is expected


@pytest.mark.filterwarnings(
    "ignore:Setuptools is replacing distutils"
)  # when PyTorch has imported distutils before
@pytest.mark.parametrize("version", ["(3, 9)", "", None])
def test_an_environment_of_another_python_is_made_anew(version: str | None, tmp_path: Path):
    python = tmp_path / "python"
    assert INSTALL["is_this_version"](python) is False
    if version is not None:
        python.write_text(f"#!/bin/sh\necho '{version}'\n")
        python.chmod(0o755)
    assert INSTALL["is_this_version"](python) is False
    assert INSTALL["is_this_version"](Path(sys.executable)) is (find_spec("pip") is not None)


def test_ci_runs_the_tests_and_builds_the_site():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.startswith("#!/usr/bin/env bash\n")
    assert {"set -euo pipefail", "make test", "make docs"} <= set(script.splitlines())
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_make_alone_lists_every_target():
    shown = make().stdout
    for target in ["help", "demo", "test", "lint", "types", "docs", "format", "clean"]:
        assert f"  make {target} " in shown


@needs_make
def test_a_missing_python_is_one_sentence(tmp_path: Path):
    done = make(f"VENV={tmp_path}/none", "PYTHON=no-such-python", "lint")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "halfstep: there is no 'no-such-python': install Python 3.10 or newer, or name it as in "
        "'make PYTHON=/path/to/python3'."
    )


@needs_make
def test_an_old_python_is_one_sentence(tmp_path: Path):
    old = tmp_path / "python"
    old.write_text(f"""#!/bin/sh
exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2)
$2"
""")
    old.chmod(0o755)
    done = make(f"VENV={tmp_path}/none", f"PYTHON={old}", "lint")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"halfstep: {old} is Python 3.9: Python 3.10 or newer is needed; name one as in make PYTHON=python3.12."
    )


def test_the_public_ci_tests_every_python_and_the_oldest_pytorch_that_are_promised():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (listed,) = re.findall(r"python: \[(.+)\]", text)
    assert listed == ", ".join(f'"3.{minor}"' for minor in range(10, 15))
    assert project["requires-python"] == ">=3.10"
    (oldest,) = re.findall(r'"torch==([\d.]+)\.\*"', text)
    assert project["optional-dependencies"]["torch"] == [f"torch>={oldest}"]
    assert re.findall(r"os: \[(.+)\]", text) == ["ubuntu-latest, macos-latest, windows-latest"]
    assert [p for p in re.findall(r"\b(?:tests|examples)/[\w/.]+", text) if not (ROOT / p).exists()] == []
