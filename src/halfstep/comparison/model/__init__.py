"""A comparison as values: every object that ``halfstep compare --json`` writes, under the names that it has there.

Times are in seconds, sizes in bytes, energies in joules. A figure that was not measured is None, and the field with
``_absent`` behind its name says why. :mod:`halfstep.codec` writes and reads the objects. The site's tables of fields
are made from the comments that begin with ``#:``.

- :mod:`comparison`: the whole; its parts under their names: :mod:`trials`, :mod:`verdicts`, :mod:`fit`,
  :mod:`recommendation`
- :mod:`figures`, :mod:`quality`: what their fields hold; :mod:`references`: where a figure stands
"""
