"""Runs a program whose meters fail at the end, each in its own way."""

import sys

from halfstep.program import Target, at_end, run


def fail(error):
    def callback(ending):
        raise error

    return callback


at_end(fail(OSError("no space left")))
at_end(fail(SystemExit(9)))
run(Target.parse(sys.argv[1], sys.argv[2:], module=False))
