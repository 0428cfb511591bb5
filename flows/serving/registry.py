"""The models that are served by name, A/B tests, and the replacement of a model without interrupting its streams."""

import asyncio
import hashlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.chat import find_model
from flows.serving.api_errors import ApiError
from tasks.errors import UserError
from tasks.files import MANIFEST
from tasks.serving import EngineParams, ServedModel, load, version

CHAMPION = "champion"
POLL_SECONDS = 0.2  # while the last streams of a replaced model are written


def find_folder(name: str, data: Path) -> str | Path:
    """The folder or hub name of a model. `champion` is data/models/champion, or else the last trained stage.

    Promotion makes data/models/champion a link to a version, whose files never change. The link is resolved here, so
    that all files that are loaded belong to one version even if the link is replaced meanwhile.
    """
    if name == CHAMPION and not (data / "models" / CHAMPION).is_dir():
        return find_model(None, data)
    folder = find_model(name, data)
    return folder.resolve() if isinstance(folder, Path) and folder.is_symlink() else folder


@dataclass
class Registry:
    """names: the models to serve, the first of which answers for the second one's share of an A/B test.

    share: the share of requests for the first model that the second one answers.
    """

    names: tuple[str, ...]
    data: Path
    params: EngineParams
    share: float = 0.0
    dtype: str = "float32"
    on_round: Callable[[], object] | None = None
    _served: dict[str, ServedModel] = field(default_factory=dict)
    _retired: list[ServedModel] = field(default_factory=list)
    _refused: set[tuple[str, str]] = field(default_factory=set)

    def load_all(self) -> None:
        """Load every model. Raises BadModel."""
        for name in self.names:
            self._served[name] = self._load(name)

    def all(self) -> list[ServedModel]:
        """The models that are served now."""
        return list(self._served.values())

    def select(self, name: str, user: str | None = None) -> ServedModel:
        """The model for a request. One user gets the same model of an A/B test each time. Raises ApiError."""
        if name not in self._served:
            available = ", ".join(self._served)
            message = f"The model '{name}' does not exist; available: {available}."
            raise ApiError(404, message, param="model", code="model_not_found")
        if self.share and name == self.names[0] and _share_of(user) < self.share:
            name = self.names[1]
        return self._served[name]

    def named(self, name: str) -> ServedModel:
        """The model with this name, without a share for another one."""
        return self._served[name]

    async def watch(self, seconds: float) -> None:
        """Look for new versions of the models, for ever."""
        while True:
            await asyncio.sleep(seconds)
            await self.replace_changed()

    async def replace_changed(self) -> list[str]:
        """Load models whose folders have changed; return their names. Streams that have begun end with the old one."""
        replaced = []
        for name, old in list(self._served.items()):
            new = await asyncio.to_thread(self._load_if_changed, name, old)
            if new is not None:
                self._served[name] = new
                self._retired.append(old)
                replaced.append(name)
                print(f"{name}: version {new.version} replaces {old.version}", file=sys.stderr, flush=True)
        for old in [old for old in self._retired if not old.engine.num_running and not old.engine.num_waiting]:
            self._retired.remove(old)
            await asyncio.to_thread(old.engine.close)
        return replaced

    def close(self) -> None:
        """End all engines, and the answers that are not complete with an error."""
        for seconds in (0.0, 10.0):  # all of them at once, then wait for each
            for served in [*self._served.values(), *self._retired]:
                served.engine.close(seconds)

    def _load(self, name: str) -> ServedModel:
        return load(name, find_folder(name, self.data), self.params, self.on_round, self.dtype)

    def _load_if_changed(self, name: str, old: ServedModel) -> ServedModel | None:
        """The new version of a model; None if there is no complete one. One that cannot be loaded is tried once."""
        new_version = ""
        try:
            folder = find_folder(name, self.data)
            # The manifest is written last: a folder without it is not complete.
            if not (Path(folder) / MANIFEST).is_file():
                return None
            new_version = version(folder)
            if new_version == old.version or (name, new_version) in self._refused:
                return None
            return self._load(name)
        except (UserError, OSError) as error:
            if (name, new_version) not in self._refused:
                self._refused.add((name, new_version))
                print(f"{name}: the new version is not served: {error}", file=sys.stderr, flush=True)
            return None


def _share_of(user: str | None) -> float:
    """A number in [0, 1): the same for one user, random without one."""
    if user is None:
        return random.random()
    return int.from_bytes(hashlib.sha256(user.encode()).digest()[:6], "big") / (1 << 48)
