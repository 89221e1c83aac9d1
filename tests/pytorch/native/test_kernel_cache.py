"""Only a library that is whole, and that nobody else can write, is loaded; why there is none is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from halfstep.pytorch.loss_scaling.gradient_kernels import SOURCE
from halfstep.pytorch.loss_scaling.scaled_pass import SOURCES
from halfstep.pytorch.native import builder as native
from halfstep.pytorch.native import kernel_cache
from halfstep.record import read


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return kernel_cache.folder()


@pytest.fixture
def kept(cache: Path) -> Path:
    library = cache / "a.so"
    library.write_bytes(b"a library")
    kernel_cache.seal(library)
    assert kernel_cache.is_whole(library)
    return library


def truncated(library: Path) -> None:
    os.truncate(library, 4)


def emptied(library: Path) -> None:
    os.truncate(library, 0)


def writable(library: Path) -> None:
    library.chmod(0o720)


def for_all(library: Path) -> None:
    library.chmod(0o702)


def linked(library: Path) -> None:
    library.symlink_to(library.rename(library.with_suffix(".other")))


def without_digest(library: Path) -> None:
    library.with_suffix(".sha256").unlink()


def another_digest(library: Path) -> None:
    library.with_suffix(".sha256").write_bytes(b"\xff")


@pytest.mark.parametrize(
    "harm", [truncated, emptied, writable, for_all, linked, without_digest, another_digest, Path.unlink]
)
def test_what_was_changed_is_not_loaded(kept: Path, harm: object) -> None:
    harm(kept)  # type: ignore[operator]
    assert not kernel_cache.is_whole(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_what_belongs_to_another_user_is_not_loaded(kept: Path) -> None:
    os.chown(kept, 12345, -1)
    assert not kernel_cache.is_whole(kept)
    os.chown(kept.parent, 12345, -1)
    with pytest.raises(kernel_cache.Unusable, match="belongs to another user, or others may write it"):
        kernel_cache.folder()


def test_a_truncated_library_is_compiled_again(cache: Path) -> None:
    """Loading it would end the process by SIGBUS."""
    if native.library.__wrapped__(SOURCE) is None:
        pytest.skip("there is no C compiler")
    (library,) = cache.glob("*.so")
    whole = library.stat().st_size
    os.truncate(library, 5000)
    assert native.library.__wrapped__(SOURCE) is not None
    assert abs(library.stat().st_size - whole) < 100


def test_a_relative_cache_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kernel_cache.folder() == tmp_path / "home" / ".cache" / "halfstep"


def test_without_a_home_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: str, **__: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kernel_cache.platformdirs, "user_cache_path", none)
    assert native.prepare([SOURCE]) == (
        "there is no home directory to keep them in; set HOME or XDG_CACHE_HOME"
    )
    assert native.library.__wrapped__(SOURCE) is None


def test_a_home_that_is_no_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.prepare([SOURCE]) == f"'{tmp_path}/file/halfstep' cannot be used: Not a directory"


def test_a_failure_expires_and_is_not_written_through_a_link(cache: Path, tmp_path: Path) -> None:
    library, other = cache / "a.so", tmp_path / "other"
    other.write_text("untouched")
    library.with_suffix(".failed").symlink_to(other)
    assert not kernel_cache.has_failed(library, "untouched")
    kernel_cache.note_failure(library, "cc")
    assert other.read_text() == "untouched"
    assert kernel_cache.has_failed(library, "cc")
    assert not kernel_cache.has_failed(library, "clang")
    long_ago = time.time() - kernel_cache.EXPIRES - 1
    os.utime(library.with_suffix(".failed"), (long_ago, long_ago))
    assert not kernel_cache.has_failed(library, "cc")


@pytest.mark.parametrize(
    ("script", "why", "remembered"),
    [
        ("echo 'cc: No space left on device' >&2; exit 1", "the disk was full while they were compiled", 0),
        ("echo 'ld: Disk quota exceeded' >&2; exit 1", "the disk was full while they were compiled", 0),
        ("echo 'as: a.o: File too large' >&2; exit 1", "the disk was full while they were compiled", 0),
        ("echo 'cc1: out of memory' >&2; exit 1", "there was too little memory to compile them", 0),
        ("echo 'cc: Read-only file system' >&2; exit 1", "the compiler could not use its files", 0),
        (
            "echo 'cc: Killed signal terminated program cc1' >&2; exit 1",
            "the compiler was ended by a signal",
            0,
        ),
        (
            'test "$LC_ALL" = C && echo "No space left on device" >&2; exit 1',
            "the disk was full while they were compiled",
            0,
        ),
        ("kill -s TERM $$", "the compiler was ended by a signal", 0),
        (
            'for out; do :; done; echo no library | tee $(echo "$@" | sed "s/.* -o //; s/ .*//")',
            ": file too short",
            1,
        ),
        ("exit 1", " cannot compile them", 1),
    ],
)
def test_only_a_compiler_that_fails_by_itself_is_remembered(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str, remembered: int
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert native.prepare([SOURCE]).endswith(why)
    assert len(list(cache.iterdir())) == remembered


def test_a_file_system_from_which_nothing_is_loaded_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling would end well, and loading fail, in every process."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID))
    assert native.prepare([SOURCE]) == f"'{cache}' is on a file system that is mounted noexec"


PROGRAM = """
import torch
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
net(torch.randn(2, 4)).sum().backward()
optimizer.step()
"""


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C is another matter")
def test_ctrl_c_while_kernels_are_compiled_is_said_as_such_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    compiler, begun = tmp_path / "compiler", tmp_path / "begun"
    compiler.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 100\n")
    compiler.chmod(0o755)
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CC": str(compiler), "CXX": str(compiler)}
    command = ["run", "--precision", "fp16", "--record", "r", "train.py"]
    with subprocess.Popen(
        [sys.executable, "-m", "halfstep", *command],
        cwd=tmp_path, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as child:  # fmt: skip
        while not begun.exists():
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)  # a terminal tells all
        _, stderr = child.communicate(timeout=60)
    assert child.returncode in (130, -signal.SIGINT), stderr
    end = read(tmp_path / "r").end
    assert (end["status"], end["steps"]) == ("interrupted", 0)
    assert "kernels in C" not in stderr
    assert [each.name for each in (tmp_path / "cache" / "halfstep").rglob("*") if each.is_dir()] == []


@pytest.mark.skipif(os.name == "nt", reason="the compiler is a shell script")
def test_an_interrupt_ends_compilers_and_none_begins_after_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexec sleep 100\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CXX", str(compiler))
    made: list[threading.Thread] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            made.append(self)
            super().start()

        def join(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    wait = threading.Thread.join
    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        native.prepare(SOURCES)
    for thread in made:
        wait(thread, 50)
    assert [thread.is_alive() for thread in made] == [False] * len(SOURCES)


def test_a_run_without_kernels_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "halfstep", "run", "--precision", "fp16", "train.py"],
        cwd=tmp_path, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the kernels in C and C++ cannot be had (") == 1
    assert "Not a directory): PyTorch's operations do their work, more slowly" in done.stderr


def test_a_source_is_compiled_anew_when_a_header_beside_it_has_changed(tmp_path: Path) -> None:
    source, header = tmp_path / "one.c", tmp_path / "threads.h"
    source.write_text('#include "threads.h"\n')
    header.write_text("")
    before = native._key(source)
    header.write_text("/* other */\n")
    assert native._key(source) != before
