"""A launcher as MPI's are: COUNT processes of a command; only variables of its own say which is which.

    launcher.py COUNT COMMAND …
"""
import os
import subprocess
import sys

count, command = int(sys.argv[1]), sys.argv[2:]
started = [
    subprocess.Popen(
        command,
        env={**os.environ, "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(count)},
    )
    for rank in range(count)
]
sys.exit(max(process.wait() for process in started))
