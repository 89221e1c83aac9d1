"""Sends a comparison to TensorBoard, MLflow or Weights & Biases, as one run per trial.

``trackers.py`` reads ``--track`` and checks it before a trial; ``runs.py`` is what a tracker gets; ``process.py``
starts a separate process, ``child.py``, and only that one imports a tracker's file and package.
"""

from halfstep.report.tracking.process import NotTracked as NotTracked
from halfstep.report.tracking.process import check as check
from halfstep.report.tracking.process import track as track
from halfstep.report.tracking.trackers import Target as Target
from halfstep.report.tracking.trackers import parse_targets as parse_targets
