"""Runs halfstep as a file, `python start.py run …`, or a module of it by ``-m``; never imports from a user's folder.

`python -m halfstep` has the current folder in front of `sys.path`, and would import a `click.py` or `platform.py`
that happens to lie there. This file is run, and never imported.
"""

import os
import sys

if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    # Python ignores a path that is no folder; the program's own folder takes this place.
    sys.path[0] = __file__

import importlib.util
import runpy

# It may not be installed, but found by a path.
if importlib.util.find_spec("halfstep") is None:
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

if sys.argv[1:2] == ["-m"]:
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    from halfstep.cli import main

    main()
