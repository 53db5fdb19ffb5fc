"""Published checkpoints to models of this package: read as plain tensors, recognised by their names, checked whole.

Nothing in a checkpoint is ever run, and nothing of one is part of this package.
"""

from noiseflow.importers.recognise import Imported, import_checkpoint

__all__ = ["Imported", "import_checkpoint"]
