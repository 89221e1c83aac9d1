"""What the commands that the site shows print: each is run, and its words are kept in docs/outputs/NAME.txt.

    python docs/outputs.py                 # all but demo: some minutes
    python docs/outputs.py overflow        # those named
    make demo                              # on a quiet machine, 4 minutes; then
    python docs/outputs.py demo            # its table here and in README, and docs/page.png (needs Chromium)

None but ``demo`` tells a time: other figures of speed come from benchmarks/results.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FOLDER = DOCS / "outputs"

#: columns of the terminal: what a page of the site holds without a scroll bar
WIDTH = 80

_FAILURES = "tests/programs/failures"

#: name -> command
COMMANDS = {
    "info": "halfstep info",
    "rounding": "halfstep formats 0.1 65520 2^-25",
    "overflow": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/attention_logits.py",
    "overflow_hidden": f"halfstep diagnose --precision fp16 {_FAILURES}/large_variance.py",
    "underflow": f"halfstep diagnose --precision fp16:loss_scale=1 --try-remedies {_FAILURES}/tiny_gradients.py",
    "underflow_emulated": f"halfstep diagnose --emulate --precision fp8 {_FAILURES}/outlier_sample.py",
    "nan_source": f"halfstep diagnose --precision fp16 {_FAILURES}/nan_in_data.py",
    "nan_source_mask": f"halfstep diagnose --precision fp16 {_FAILURES}/fp32_mask.py",
    "domain_error": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/log_probability.py",
    "epsilon_lost": f"halfstep diagnose --precision fp16-true --try-remedies {_FAILURES}/adam_eps.py",
    "lost_update": f"halfstep diagnose --precision bf16-true --try-remedies {_FAILURES}/small_updates.py",
    "saturated_sum": f"halfstep diagnose --precision bf16 --try-remedies {_FAILURES}/running_sum.py",
    "scale_collapse": f"halfstep diagnose --precision fp16 --try-remedies {_FAILURES}/scale_runaway.py",
    "demo": "halfstep compare --steps 60 --repeats 3 examples/char_gpt.py",
}

#: the demo's folder, as the Makefile names it, and the flags of a browser that takes a picture of its page
_DEMO = "halfstep-out/demo"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PICTURE = "--headless --no-sandbox --disable-gpu --hide-scrollbars"
_PICTURE += " --force-device-scale-factor=2 --window-size=1100,1740"


def printed(words: list[str]) -> str:
    """What a command of halfstep's prints, but for the last lines, which name the folder and the next command."""
    environment = os.environ | {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr}")
    told = re.split(r"^page ", done.stdout, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(line.rstrip() for line in told.splitlines()).strip("\n")


def output_of(name: str) -> str:
    """A command and what it prints; the demo is drawn again from its records."""
    words = shlex.split(COMMANDS[name])
    if name == "demo":
        words = ["halfstep", "report", _DEMO]
    elif words[1] == "diagnose":
        words[2:2] = ["--out", f"halfstep-out/docs/{name}"]
    return f"$ {COMMANDS[name]}\n\n{printed(words)}\n"


def show_in_readme(output: str) -> None:
    """Put the demo's table and advice into README, without warnings and the reasons why a precision is no faster."""
    _, *parts = re.split(r"\n\n(?=\S)", output.strip("\n"))
    told = [part for part in parts if not part.startswith(("energy ", "warning:", "Unfinished:", "Why "))]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    shown = "\n\n".join(told)
    changed = re.sub(
        r"(?<=^```\n)precision  .*?(?=\n```$)", lambda _: shown, text, count=1, flags=re.M | re.S
    )
    readme.write_text(changed, encoding="utf-8")


def take_picture() -> None:
    """Draw the top of the demo's page as docs/page.png."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise SystemExit(
            f"There is no browser to take docs/page.png with; install one of {', '.join(_BROWSERS)}."
        )
    with tempfile.TemporaryDirectory() as profile:
        page = (ROOT / _DEMO / "report.html").as_uri()
        places = [f"--user-data-dir={profile}", f"--screenshot={DOCS / 'page.png'}", page]
        subprocess.run([browser, *_PICTURE.split(), *places], check=True, capture_output=True)


def main() -> None:
    for name in sys.argv[1:] or [name for name in COMMANDS if name != "demo"]:
        FOLDER.mkdir(exist_ok=True)
        output = output_of(name)
        (FOLDER / f"{name}.txt").write_text(output, encoding="utf-8")
        if name == "demo":
            show_in_readme(output)
            take_picture()
        print(f"{name}: written", flush=True)


if __name__ == "__main__":
    main()
