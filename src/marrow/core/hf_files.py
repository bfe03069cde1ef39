"""Where the files of a transformers checkpoint are: in a folder, on the hub, or in what is kept of the hub here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from . import hf_config, hub
from .errors import MarrowError


class Files:
    """The checkpoint `name`: a folder, or a name on the hub. offline: nothing is asked of the hub."""

    def __init__(self, name: str, where: str):
        self.name, self.where, self.local = name, where, Path(name).is_dir()
        if not self.local and (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1):
            raise MarrowError(f"no folder {name}", where=where)
        self.offline = self.local or not hub.answers()

    def json(self, file: str) -> dict[str, Any]:
        path = self._path(file)
        if path is None:
            raise MarrowError(f"{self.name} has no {file}", where=self.where) if self.local else self.missing()
        return hf_config.read(path, self.where)

    def processor(self) -> dict[str, Any]:
        for file in hf_config.PROCESSORS:
            if (path := self._path(file)) is not None:
                return hf_config.read(path, self.where)
        raise MarrowError(f"{self.name} has no {hf_config.PROCESSORS[0]}, so nobody knows how its pictures are normalised",
                          where=self.where, hint="Save the image processor into the same folder.")  # fmt: skip

    def _path(self, file: str) -> Path | None:
        if self.local:
            return Path(self.name) / file if (Path(self.name) / file).is_file() else None
        if self.offline:
            kept = hub.cached(self.name, [file])
            return Path(kept) if kept else None
        try:
            return Path(hf_hub_download(self.name, file))
        except EntryNotFoundError:
            return None
        except OSError as error:
            raise self.missing(str(error).partition("\n")[0]) from None

    def missing(self, why: str = "") -> MarrowError:
        why = why or f"{hub.constants.ENDPOINT} does not answer"
        return MarrowError(f"hf:{self.name} is not on this machine and could not be fetched ({why})", where=self.where,
                           hint="Offline, bring its folder over and give hf:FOLDER.")  # fmt: skip
