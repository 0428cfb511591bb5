"""Memory between two stages."""

import gc
import weakref

from flows.runtime import stage_run


class _Model:
    """An object in a reference cycle, as models are."""

    def __init__(self) -> None:
        self.itself = self


def test_models_are_freed_after_each_stage() -> None:
    """Also after the first stage, when what is left is no longer looked at."""
    try:
        for _ in range(2):
            model = weakref.ref(_Model())
            stage_run.release_memory()
            assert model() is None
    finally:
        gc.unfreeze()
