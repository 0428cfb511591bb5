"""The device that was found; empty without a GPU."""

import os
from types import SimpleNamespace

current_platform = SimpleNamespace(device_type=os.environ.get("STAND_IN_DEVICE", "cuda"))
