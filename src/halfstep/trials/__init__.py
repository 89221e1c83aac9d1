"""A trial: one run of a program in a separate process, and how it ended."""

from halfstep.trials.hints import caused_by_format as caused_by_format
from halfstep.trials.hints import modules_to_keep as modules_to_keep
from halfstep.trials.job import Job as Job
from halfstep.trials.job import Trial as Trial
from halfstep.trials.job import safe as safe
from halfstep.trials.outcome import Outcome as Outcome
from halfstep.trials.outcome import Status as Status
from halfstep.trials.outcome import diverged_from as diverged_from
from halfstep.trials.outcome import judge as judge
from halfstep.trials.outcome import once as once
from halfstep.trials.outcome import records_at as records_at
from halfstep.trials.run import run_trial as run_trial
