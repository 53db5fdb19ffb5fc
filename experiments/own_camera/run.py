"""The three commands of the page *Your own camera in three commands*, on a virtual camera, and the page's pictures.

    python experiments/own_camera/run.py

writes `docs/tutorials/your-own-camera-*.png`; frames, profile and report go into a temporary folder, or `--work`.
"""

from __future__ import annotations

