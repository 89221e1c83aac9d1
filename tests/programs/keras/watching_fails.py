"""The steps of steps_for_looks.py, while a diagnosis cannot read its optimizer."""
from unittest import mock


def fail(*args, **kwargs):
    raise RuntimeError("planted")


with mock.patch("halfstep.keras.recording.watched_torch.WatchedSteps._as_torch", fail):
    from steps_for_looks import trained

    facts = trained()
