"""What a trial leaves behind: JSON Lines, one event per line, flushed, so that a killed run is still readable.

Events, in the order in which they appear (every one has ``event`` and ``at``, seconds since the start):

- ``start``: schema, halfstep's version, precision, seed, repeat, rank, world size, command, environment
- ``takeover``: framework, version, device, seconds it took, ``ran_as`` (what was put into force, in words) and the same
  as values: ``asked`` and ``asked_weights`` (formats), ``described``, ``emulated``, ``fp32_units`` (kinds of product),
  ``lists`` (a device), ``software`` (a framework) and ``software_formats`` (which of its products are meant; without
  it, all 16-bit ones); later ones have the framework that drives the training, where it is not PyTorch itself, and
  whether the script clips and accumulates
- ``own_amp``: the script has its own mixed precision (``autocast``, ``GradScaler``, a framework's flag), and
  the format that its words ask for
- ``step``: index from 0, loss, seconds since the step before, skipped, loss_scale, sampled
- ``skip``: a step that was left out: step, scale, reason
- ``sample``: memory breakdown, FLOPs of matrix products by dtype, which kinds of product were computed in fp32 units,
  samples per step, bytes that ranks summed by format; a second one: shares of a step's time
- ``region``: where the precision holds: its ``kind`` is ``model``, ``layers``, ``parameters``, ``own`` or ``framework``
- ``stored``: what the sampled step held in memory, in bytes: ``weights``, ``gradients`` and ``optimizer``, each
  {format: bytes}, and ``absent`` {part: reason} for what could not be measured
- ``logged``: a figure of the script's own, by ``halfstep.log`` or the framework's logging
- ``watch``: what ``diagnose`` sees (:mod:`halfstep.pytorch.watching.watch`)
- ``nonfinite``: the first loss that is not finite, or the first step skipped: step, what, and in which module it
  began: module, operation, direction, words
- ``restart``: the steps before it were a warm-up without an optimizer, not training; the warning that it ``drops``
  does not hold either
- ``absent``: halfstep could not measure something: ``look`` is what the record lacks; the reason; the program went on
- ``warning``: something the user should know, in words
- ``lost``: how many lines could not be written, and why: the record cannot be used
- ``end``: status, exit code, reason, where it was raised, peak memory, energy and joules per step, other load, and in a
  trial of a comparison the files less than a day old that it read
"""

from __future__ import annotations

from halfstep.record.events import LONGEST as LONGEST
from halfstep.record.events import SCHEMA as SCHEMA
from halfstep.record.events import number as number
from halfstep.record.events import plain as plain
from halfstep.record.reader import read as read
from halfstep.record.record import Record as Record
from halfstep.record.writer import NullWriter as NullWriter
from halfstep.record.writer import StepLines as StepLines
from halfstep.record.writer import Writer as Writer
