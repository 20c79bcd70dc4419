"""Settings of all tests: ``make test`` runs the same cases every time, ``make test-all`` (profile "explore") new ones."""

import os

from hypothesis import settings

settings.register_profile("default", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("CNNEXT_TEST_PROFILE", "default"))
