"""Trials side by side, from the request to the advice. Imports no framework.

In the order in which they are used:

- :mod:`request`, :mod:`running`: what is compared, and running it; :mod:`fit`: the largest batch that fits
- :mod:`archive`, :mod:`loading`, :mod:`tables`: reading a folder back, for reports, notebooks and spreadsheets
- :mod:`rows`, :mod:`effort`: one trial as a row; :mod:`verdicts`: one precision as a row, the baseline first
- :mod:`ratios`, :mod:`intervals`, :mod:`drift`: speed, memory and energy against noise
- :mod:`quality`, :mod:`curves`, :mod:`paired`, :mod:`tolerance`: losses and figures against noise
- :mod:`why`: why a precision is no faster or smaller
- :mod:`evidence`, :mod:`rules`, :mod:`claims`, :mod:`advice`: what to use, and by which figures, as values;
  :mod:`adopt`: the lines that make it permanent

:mod:`model` has every object of the JSON; the sentences are made in :mod:`halfstep.report.words`.
"""
