"""Settings for every test."""

from hypothesis import settings

# Tests share the machine with servers that they start: how long one example takes says nothing.
settings.register_profile("gateway", deadline=None, print_blob=True)
settings.load_profile("gateway")
