"""Runs the user's program exactly as `python` would, and notices how it ends."""

from halfstep.program.ending import Ending as Ending
from halfstep.program.ending import at_end as at_end
from halfstep.program.imports import on_import as on_import
from halfstep.program.run import run as run
from halfstep.program.target import Target as Target
