"""Makes the examples' modules importable by the names that they have when an example is run as a script."""

from __future__ import annotations

import sys

from tests.structure.sources import ROOT

sys.path.insert(0, str(ROOT / "examples"))
