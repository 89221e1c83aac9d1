"""Dictionaries that halfstep only passes on: whoever makes or takes them says what they hold."""

from __future__ import annotations

from typing import Any

#: arguments that a function of somebody else's is called with by name
Keywords = dict[str, Any]

#: the state of one of PyTorch's modules, optimizers or scalers
StateDict = dict[str, Any]

#: a group of an optimizer's parameters, with its options
ParamGroup = dict[str, Any]
