"""Other libraries to measure against: each in an environment of its own, which is made at first use and kept.

They lie in $MARROW_PEERS, by default ~/.cache/marrow-peers, a folder for each name. What runs in them lies in `peer/`.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

MINUTES = 20  # for one installation
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def environment(name: str, *requirements: str) -> Path | None:
    """The Python of an environment with these packages, made at first use; None, with a printed word, where that fails."""
    folder = Path(os.environ.get("MARROW_PEERS", "~/.cache/marrow-peers")).expanduser() / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    marker, wanted = folder / "requirements.txt", "\n".join([sys.version.split()[0], *requirements]) + "\n"
    if python.exists() and marker.is_file() and marker.read_text() == wanted:
        return python
    if folder.exists() and not (marker.is_file() or (folder / "pyvenv.cfg").is_file()):
        print(f"{name} left out: {folder} is something else than an environment", flush=True)
        return None
    print(f"{name}: installing {', '.join(requirements)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    if uv := shutil.which("uv"):
        steps = [
            [uv, "venv", "--python", sys.executable, folder],
            [uv, "pip", "install", "--python", python, *requirements],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", *requirements]]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for step in steps:
            subprocess.run(
                [str(part) for part in step], check=True, capture_output=True, text=True, timeout=60 * MINUTES
            )
        marker.write_text(wanted)  # last: a folder without it is not finished
    except (OSError, subprocess.SubprocessError) as failed:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{name} left out: it can't be installed ({why(failed)})", flush=True)
        return None
    return python


def same_torch() -> str:
    """The requirement that gives an environment the torch which marrow has here, so that neither side gains by another."""
    return f"torch=={version('torch').partition('+')[0]}"


def ask(python: Path, script: Path, *args: str, threads: int = 1, timeout: float = 1200) -> dict | None:
    """What a script prints as JSON on its last line, run in that environment with its threads set; None, with a printed
    word, where it fails."""
    apart = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    limits = dict.fromkeys(THREADS, str(threads))
    try:
        done = subprocess.run([str(python), str(script), *args], env=apart | limits, check=True, capture_output=True,
                              text=True, timeout=timeout)  # fmt: skip
        found = json.loads((done.stdout.splitlines() or [""])[-1])
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as failed:
        print(f"{script.name} left out: {why(failed)}", flush=True)
        return None
    if not isinstance(found, dict):
        print(f"{script.name} left out: its last line is not a JSON object", flush=True)
        return None
    return found


def why(failed: Exception) -> str:
    """One line about what went wrong."""
    if isinstance(failed, subprocess.TimeoutExpired):
        return f"not done after {failed.timeout:.0f} s"
    if isinstance(failed, subprocess.CalledProcessError):
        said = [line.strip() for line in str(failed.stderr or "").splitlines() if line.strip()]
        return said[-1][:300] if said else f"it ended with {failed.returncode}"
    if isinstance(failed, json.JSONDecodeError):
        return "its last line is not JSON"
    return str(failed)
