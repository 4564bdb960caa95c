"""What every test runs under.

One thread for each process: the models here are so small that a second one makes them slower. Ctrl-C works, which a
shell that started the tests in the background had switched off for them and for the commands they start. The first call
of a torch kernel takes longer than Hypothesis's deadline per example, so there is none.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which is later

from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("torch", deadline=None)
settings.load_profile("torch")
