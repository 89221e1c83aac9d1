"""Finds threads that compute beside a step: one that prepares data, or one that trains another model."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from typing import Any


def other_threads() -> set[int]:
    """The system's numbers of all other Python threads; none if this one is not a Python thread."""
    threads = {thread.native_id for thread in threading.enumerate()}
    here = threading.get_native_id()
    return {number for number in threads if number is not None} - {here} if here in threads else set()


def of_the_step(events: Iterable[Any], beside: Collection[int]) -> list[Any]:
    """The events of a step, without those of threads that only ran at the same time.

    A thread takes part if it was started in the step, or if a backward pass connects it with one that takes part: one
    of them computed the forward pass and the other the backward pass. If those threads ran no backward pass (only the
    optimizer steps in its own thread), all threads take part.

    Args:
        events: of Kineto's.
        beside: the system's numbers of threads that existed before the step and have not stepped.
    """
    events = list(events)
    if not beside:
        return events
    part = {event.start_thread_id() for event in events if event.device_resource_id() not in beside}
    joined = {(event.start_thread_id(), event.fwd_thread_id()) for event in events if event.fwd_thread_id()}
    while more := {thread for pair in joined if not part.isdisjoint(pair) for thread in pair} - part:
        part |= more
    found = [event for event in events if event.start_thread_id() in part]
    return found if any(event.fwd_thread_id() for event in found) else events
