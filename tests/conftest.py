"""The first call of a torch kernel takes longer than Hypothesis's deadline per example, so there is none."""

from hypothesis import settings

settings.register_profile("torch", deadline=None)
settings.load_profile("torch")
