"""One program under one recipe.

- :mod:`api`: what a script may say by itself
- :mod:`session`: from the start of the program to its end; :mod:`settings`: what the user asked for
- :mod:`frameworks`: each framework is taken over as soon as the program has imported it; :mod:`jax_alone`
- :mod:`own_wish`: a script that asks for a precision while ``halfstep run`` runs it
- :mod:`stop`: the error that ends the program; :mod:`last_words`: what became of the program, in words
- :mod:`seeds`: shifting every seed that the program sets
"""

from __future__ import annotations

from halfstep.unseen_importlib_bootstrap import through_here

__path__ = through_here(__path__)
