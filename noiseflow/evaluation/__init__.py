"""Score noise models on a data set: one pass over its images, every model on the same tiles."""

from noiseflow.evaluation.run import Evaluation, evaluate
from noiseflow.evaluation.sources import Entry, SampleFolder
from noiseflow.evaluation.tiles import TILE

__all__ = ["TILE", "Entry", "Evaluation", "SampleFolder", "evaluate"]
