"""Settings of all tests, and the folder of the twins."""

import os
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
explore = os.environ.get("CNNEXT_TEST_PROFILE") == "explore"
settings.register_profile("normalization", deadline=None, max_examples=40, derandomize=not explore)
settings.load_profile("normalization")
