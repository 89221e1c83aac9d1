"""A comparison as values: every object that ``halfstep compare --json`` writes, under the names that it has there.

Times are in seconds, sizes in bytes, energies in joules; None is what was not measured, and the field with ``_absent``
behind its name says why. :mod:`halfstep.codec` writes and reads them. The site's tables of fields are made of the
comments that begin with ``#:``.

- :mod:`comparison`: the whole; its parts under their names: :mod:`trials`, :mod:`verdicts`, :mod:`fit`,
  :mod:`recommendation`
- :mod:`figures`, :mod:`quality`: what their fields hold; :mod:`references`: where a figure stands
"""
