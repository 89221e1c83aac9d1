"""As ddp.py, on the processes of a launcher that speaks as MPI does, or on one process."""
import os
import runpy
from pathlib import Path

os.environ["RANK"] = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
os.environ["WORLD_SIZE"] = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", "29517"
runpy.run_path(str(Path(__file__).with_name("ddp.py")), run_name="__main__")
