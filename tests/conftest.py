"""What all tests share: Hypothesis's settings."""

import hypothesis

# A deadline per example measures how busy the machine is.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")
