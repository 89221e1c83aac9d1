"""Runs a program as the command line does, and writes its ending to a file: FILE [-m] program args…"""

import dataclasses
import json
import sys

from halfstep.program import Target, at_end, run

path, *words = sys.argv[1:]


def tell(ending):
    with open(path, "a") as file:
        file.write(json.dumps(dataclasses.asdict(ending)) + "\n")


module = words[0] == "-m"
program, *args = words[1:] if module else words
target = Target.parse(program, args, module=module)
at_end(tell)
run(target)
