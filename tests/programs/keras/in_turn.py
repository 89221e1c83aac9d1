"""Runs programs one after another, each under a recipe of its own, where starting a framework takes longest.

    in_turn.py FILE     FILE: [[name, recipe, path], ...] in JSON; records go to NAME.jsonl beside it

Prints what each program left in its ``facts``: one JSON object on the last line.
"""
import gc
import json
import runpy
import sys
from pathlib import Path

import keras

from halfstep.keras.takeover import Takeover
from halfstep.precisions.recipes import parse
from halfstep.record import SCHEMA, Writer
from halfstep.takeover.base import Options


def fail():
    raise RuntimeError("planted")


MORE = {"looks fail": {"warm": fail, "tick": fail}, "watching fails": {"watch": True}}
facts = {}
jobs = Path(sys.argv[1])
for name, recipe, program in json.loads(jobs.read_text()):
    writer = Writer(str(jobs.with_name(f"{name}.jsonl")))
    writer.write("start", schema=SCHEMA, precision=recipe)
    options = Options(parse(recipe), writer=writer, **MORE.get(name, {}))
    beneath = []
    if keras.backend.backend() == "torch":
        from halfstep.pytorch.takeover import Takeover as PyTorch

        beneath = [PyTorch(options)]
    takeover = Takeover(options, beneath)
    facts[name] = runpy.run_path(program).get("facts")
    takeover.close()
    writer.write("end", status="ok", steps=takeover.steps, skipped_steps=takeover.skipped)
    for one in (takeover, *beneath):
        one.remove()
    keras.backend.clear_session()
    keras.config.set_dtype_policy("float32")
    gc.collect()
print(json.dumps(facts))
