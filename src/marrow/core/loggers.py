"""Where numbers of a training go: CSV, which needs nothing, or TensorBoard."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

HEADER = "step,name,value\n"
LINE = re.compile(r"(\d{1,18}),.*\n")


class Logger(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class CsvLogger:
    """Appends one line a number, `step,name,value`; written through at once, so that a killed run loses none."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        if not self._file.tell():
            self._write(HEADER)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._write("".join(f"{step},{name},{value!r}\n" for name, value in values.items()))

    def cut(self, step: int) -> None:
        """Forget what came after a step, and what is no line of a log, such as a last one that a kill left unfinished."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[1:]
        kept = [line for line in lines if (found := LINE.fullmatch(line)) and int(found[1]) <= step]
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(HEADER + "".join(kept), encoding="utf-8")
        self._file.close()
        os.replace(part, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


class TensorBoardLogger:
    """Event files for TensorBoard in a folder."""

    def __init__(self, path: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._open, self._path = SummaryWriter, str(path)
        self._writer = SummaryWriter(self._path)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def cut(self, step: int) -> None:
        """Events after a step, from before a resume, are hidden."""
        self._writer.close()
        self._writer = self._open(self._path, purge_step=step + 1)

    def close(self) -> None:
        self._writer.close()
