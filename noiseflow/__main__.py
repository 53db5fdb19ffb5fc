"""`python -m noiseflow` is `noiseflow`."""

import sys

from noiseflow.cli import main

sys.exit(main())
