"""Compares trials, from the request to the advice. Imports no framework.

In the order in which they are used:

- :mod:`request`, :mod:`running`: what is compared, and running it; :mod:`fit`: the largest batch that fits
- :mod:`archive`, :mod:`tables`: reading a folder back, and its rows for notebooks and spreadsheets
- :mod:`rows`, :mod:`trial_cost`: one trial as a row; :mod:`verdicts`: one precision as a row, the baseline first
- :mod:`statistics`: speed, memory and energy against noise; losses and figures against noise
- :mod:`disturbance`, :mod:`continued`, :mod:`same_runs`, :mod:`stillness`: trials that cannot be compared, and why
- :mod:`why`: why a precision is no faster or smaller
- :mod:`advice`: what to use, and by which figures, as values; the lines that make it permanent
- :mod:`requirements`: whether the requirements hold

:mod:`model` has every object of the JSON; the sentences are made in :mod:`halfstep.report.words`.
"""
