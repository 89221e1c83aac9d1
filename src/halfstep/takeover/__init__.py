"""What every framework's takeover is."""

from __future__ import annotations

from halfstep.unseen_importlib_bootstrap import through_here

__path__ = through_here(__path__)
