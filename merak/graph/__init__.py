"""The room `graph`: models captured as flat graphs, and cut into stages."""

from merak.graph.capture import Captured, capture
from merak.graph.errors import CaptureError
from merak.graph.prepare import Prepared, prepare
from merak.graph.stages import Cuttable, Segment, Stage, Value

__all__ = ["CaptureError", "Captured", "Cuttable", "Prepared", "Segment", "Stage", "Value", "capture", "prepare"]
