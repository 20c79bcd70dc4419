"""Settings of all tests, and the folder of the twins."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("normalization", deadline=None, max_examples=40)
settings.load_profile("normalization")
