"""README and the site: the commands that they name exist, their links lead somewhere, their outputs are as printed."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import click
import pytest

from halfstep.cli import halfstep
from halfstep.diagnosis.model import Kind

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
OUTPUTS = runpy.run_path(str(DOCS / "outputs.py"))
COMMANDS = OUTPUTS["COMMANDS"]

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def fences(text: str) -> list[str]:
    """What stands in fenced blocks."""
    return re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of halfstep's, in blocks and between backticks."""
    lines = [line for block in fences(text) for line in block.splitlines()]
    for code in [*re.findall(r"`([^`\n]+)`", text), *lines]:
        found = re.search(r"(?:^|[ $])halfstep ([a-z]+ ?.*)$", code.split("  #")[0])
        if found and (code.startswith(("halfstep ", "$ ")) or "-m halfstep" in code):
            yield shlex.split(found[1])


@page
def test_the_commands_and_options_that_are_named_exist(path: Path) -> None:
    for name, *words in commands(path.read_text(encoding="utf-8")):
        command = halfstep.get_command(click.Context(halfstep), name)
        assert command is not None, f"halfstep {name}"
        options = {option: p for p in command.params if isinstance(p, click.Option) for option in p.opts}
        while words and words[0].startswith("--"):
            option, equals, _ = words.pop(0).partition("=")
            assert option in options, f"halfstep {name} {option}"
            if not options[option].is_flag and not equals and words:
                words.pop(0)


@page
def test_the_benchmarks_that_are_named_exist_with_their_options(path: Path) -> None:
    for script, options in re.findall(
        r"python (benchmarks/\w+\.py)([^`\n#|]*)", path.read_text(encoding="utf-8")
    ):
        source = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z-]+", options):
            assert f'"{option}"' in source, f"{script} {option}"


@page
def test_what_is_taken_from_the_source_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"auto\w+:: ([\w.]+)$", text, re.MULTILINE)
    named += [name.replace(":", ".") for name in re.findall(r"json-fields} ([\w.:]+)", text)]
    for module, _, name in (name.rpartition(".") for name in named):
        assert hasattr(import_module(module), name), f"{module}.{name}"


def test_architecture_names_files_that_are_there() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+(?:/|\.py))`", text):
        assert any((root / name).exists() for root in (ROOT / "src" / "halfstep", ROOT)), name


@page
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@page
def test_what_is_included_is_there(path: Path) -> None:
    for file, options in re.findall(r"```{include} (\S+)\n((?::.*\n)*)", path.read_text(encoding="utf-8")):
        included = (path.parent / file).read_text(encoding="utf-8")
        for marker in re.findall(r': "(.+)"', options):
            assert marker in included, f"{file}: {marker}"


def test_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.parametrize(("name", "begins"), [("demo", "precision  "), ("overflow", "$ halfstep diagnose")])
def test_what_readme_shows_is_what_was_printed(name: str, begins: str) -> None:
    printed = (DOCS / "outputs" / f"{name}.txt").read_text(encoding="utf-8")
    (block,) = (b for b in fences((ROOT / "README.md").read_text(encoding="utf-8")) if b.startswith(begins))
    for part in block.strip("\n").split("\n\n"):
        assert part in printed


def test_every_output_is_of_the_command_that_makes_it_and_is_shown() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for file in (DOCS / "outputs").iterdir():
        first, *told = file.read_text(encoding="utf-8").splitlines()
        assert first == f"$ {COMMANDS[file.stem]}"
        assert not [line for line in told if line.startswith(("page ", "next "))], "where it was run"
        assert f"outputs/{file.name}" in shown, file.name


def test_what_formats_prints_is_what_the_site_shows() -> None:
    assert OUTPUTS["output_of"]("rounding") == (DOCS / "outputs" / "rounding.txt").read_text(encoding="utf-8")


def test_each_kind_of_finding_has_a_page() -> None:
    index = (DOCS / "diagnose" / "index.md").read_text(encoding="utf-8")
    for kind in get_args(Kind):
        assert (DOCS / "diagnose" / f"{kind}.md").exists(), kind
        assert f"`{kind}`" in index


#: what the examples of the page "From Python" run
TRAIN = """\
import sys
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=float(sys.argv[2]) if sys.argv[2:] else 0.1)
for _ in range(50):
    loss = model(torch.randn(32, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.long
def test_the_examples_from_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)
    page = DOCS / "python.md"
    examples = doctest.DocTestParser().get_doctest(
        page.read_text(encoding="utf-8"), {}, page.name, str(page), 0
    )
    assert len(examples.examples) > 10
    assert doctest.DocTestRunner().run(examples).failed == 0
