"""Plays wandb: writes what it is told to PLAYED_FILE, as lines of JSON, and goes wrong as PLAYED_FAULT says."""
import json
import os
import sys
import time

FAULT = os.environ.get("PLAYED_FAULT", "")
if FAULT == "import":
    raise ImportError("no module named protobuf")


def tell(**what):
    print("noise on stdout")
    with open(os.environ["PLAYED_FILE"], "a") as file:
        print(json.dumps(what), file=file)


class Settings(dict):
    def __init__(self, **told):
        super().__init__(told)


class Artifact:
    def __init__(self, name, type):
        self.files = []

    def add_file(self, path, name):
        self.files.append([path, name])


class Run:
    url = ""

    def __init__(self, name):
        self.name, self.summary = name, self

    def log(self, values, step):
        tell(run=self.name, step=step, values=values)
        if FAULT == "raise":
            raise RuntimeError("the server said:\n  no")
        if FAULT == "leave":
            os._exit(7)
        if FAULT == "hang":
            time.sleep(600)

    def update(self, figures):
        tell(run=self.name, figures=figures)

    def log_artifact(self, artifact):
        tell(run=self.name, artifact=artifact.files)

    def finish(self, exit_code=0):
        tell(run=self.name, exit_code=exit_code)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def init(**told):
    tell(init={k: v for k, v in told.items() if k != "settings"}, mode=os.environ.get("WANDB_MODE"))
    return Run(told["name"])


def teardown():
    if FAULT == "exit":
        sys.exit("out of quota")
