"""``python -m halfstep``: the same as the command ``halfstep``."""

from halfstep.cli import main

main()
