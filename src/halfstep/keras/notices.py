"""What the takeover tells the user and the record, beside the steps."""

from __future__ import annotations

from typing import NoReturn

from halfstep.errors import HalfstepError
from halfstep.takeover.base import Options


class Notices:
    """Each is given once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._given: set[str] = set()

    def own_amp(self, what: str) -> None:
        """The script has mixed precision of its own."""
        if what not in self._given:
            self._given.add(what)
            self._options.writer.write("own_amp", what=what)

    def warn(self, text: str, of_record: bool = False) -> None:
        """Tell the user a sentence, and write it; one ``of_record`` is of use only to a reader of the record."""
        if text not in self._given:
            self._given.add(text)
            self._options.writer.write("warning", text=text)
            if not of_record:
                self._options.say(f"warning: {text}")

    def refuse(self, error: HalfstepError) -> NoReturn:
        """End the program with a sentence: what it is about to do cannot be done under the recipe."""
        self._options.halt(error)
        raise error
