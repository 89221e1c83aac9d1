"""Lines to adopt, pasted into a script of their framework at the places that their own comments name."""

from __future__ import annotations

from pathlib import Path

from halfstep.comparison.advice.adopt import OWN_WORDS, Script, own_words

from ..cli.running import PROGRAMS

#: framework of the record -> the script into which its lines are pasted
TEMPLATES = {"keras": "adopted_fit.py", "tensorflow": "adopted_tape.py"}


def frameworks(backend: str) -> list[str]:
    """What can drive training on ``backend``: a tape is TensorFlow's."""
    return ["keras", "tensorflow"] if backend == "tensorflow" else ["keras"]


def turns(backend: str, folder: Path) -> list[tuple[str, str, str]]:
    """(name, recipe, path): each framework's script under each recipe, and as it is with the recipe's lines pasted."""
    made = []
    for framework in frameworks(backend):
        template = PROGRAMS / "keras" / TEMPLATES[framework]
        for recipe in OWN_WORDS[framework]:
            script = folder / f"{framework}-{recipe}.py"
            script.write_text(pasted(template.read_text(), own_words(recipe, Script(framework)) or ""))
            made.append((f"{framework}-{recipe}", recipe, str(template)))
            made.append((f"{framework}-{recipe}-adopted", "as-is", str(script)))
    return made


def pasted(template: str, lines: str) -> str:
    """``template`` with the policy in the place of its own, and the step, if there is one, in the place of its step."""
    policy, _, rest = lines.partition("\n")
    text = template.replace("# adopted: the policy", policy)
    optimizer, _, step = rest.partition("\n")
    text = text.replace("# adopted: the optimizer", optimizer)
    if not step:
        return text
    before, _, old = text.partition("    # adopted: the step\n")
    return before + "".join(f"    {line}\n" for line in step.splitlines()) + old.partition("until here\n")[2]
