"""Where teams look: a comparison as runs of TensorBoard, MLflow or Weights & Biases, one per trial.

``trackers.py`` reads ``--track`` and finds what can be wrong before a trial; ``runs.py`` is what a tracker gets;
``process.py`` tells it in a process of its own, ``child.py``, which alone imports a tracker's file and package.
"""

from halfstep.report.tracking.process import NotTracked as NotTracked
from halfstep.report.tracking.process import check as check
from halfstep.report.tracking.process import track as track
from halfstep.report.tracking.trackers import Target as Target
from halfstep.report.tracking.trackers import parse_targets as parse_targets
