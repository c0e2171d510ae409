"""Interpreters of their own for what cannot stand beside the core's packages: pinned in envs/, built below .venvs/.

`python -m pipeline.environments sync NAME` builds one with uv, `… status` says what is there. A stage whose extractor
needs one re-runs itself in it, by :func:`enter`; what happens inside is the adapter's business.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write
from pipeline.core.folders import given_folder
from pipeline.core.locks import stage_lock

VARIABLE = "SIGHTREAD_VENVS"
PYTHON = "3.11"
"""What the pins are made for."""

SOURCES = {"detectron2": "SIGHTREAD_DETECTRON2"}
"""Interpreters whose main package is on no index, and the variable that may say where it is to be had."""

_IMPORTED = {"detectron2": "detectron2.modeling", "easyocr": "easyocr", "flair": "flair", "lavis": "lavis.models"}
_ROOT = Path(__file__).resolve().parents[2]
_MARKER = "sightread.json"  # written last: an interpreter without it is not whole
_ENTERED = "SIGHTREAD_INTERPRETER"  # the one that a process was re-run in


@dataclass(frozen=True)
class Environment:
    """One interpreter: what it is to hold, and where it stands."""

    name: str
    pins: Path
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter's program."""
        return self.folder / "bin" / "python"

    @property
    def command(self) -> str:
        """What builds it."""
        source = "" if self.name not in SOURCES else " --source PATH_OR_URL"
        return f"python -m pipeline.environments sync {self.name}{source}"

    def digest(self) -> str:
        """SHA-256 of the pins; comments do not count."""
        lines = (line.partition("#")[0].strip() for line in self.pins.read_text(encoding="utf-8").splitlines())
        return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()

    def problem(self) -> str | None:
        """Why it cannot be used, or None."""
        if not self.folder.exists():
            return "is not built"
        try:
            built = json.loads((self.folder / _MARKER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "was not built to the end"
        if built["pins"] != self.digest():
            return f"is stale: {self.pins.parent.name}/{self.pins.name} has changed since it was built"
        if not self.python.exists():
            return "has lost the Python that it was built on"
        return None

    def is_this(self) -> bool:
        """Whether this process runs in it."""
        return Path(sys.prefix).resolve() == self.folder.resolve()


def names() -> list[str]:
    """The interpreters that envs/ has pins for."""
    return sorted(path.stem for path in (_ROOT / "envs").glob("*.txt"))


def environment(name: str) -> Environment:
    """The interpreter called `name`.

    Raises:
        UserError: envs/ has no pins for it, or ``SIGHTREAD_VENVS`` is no absolute folder.
    """
    pins = _ROOT / "envs" / f"{name}.txt"
    if name not in names():
        raise UserError(f"{pins}: no such file; the interpreters are {', '.join(names())}")
    return Environment(name, pins, folder() / name)


def folder() -> Path:
    """Where the interpreters stand: the folder named by ``SIGHTREAD_VENVS``, else ``.venvs`` of the project.

    `dvc exp run --temp` and DVC's queue run in copies of what git tracks, below ``.dvc/tmp`` of the project itself;
    there it is that project's ``.venvs``.

    Raises:
        UserError: the variable names no absolute folder.
    """
    if (given := given_folder(VARIABLE)) is not None:
        return given
    for parent in _ROOT.parents:
        if (parent.parent.name, parent.name) == (".dvc", "tmp"):
            return parent.parent.parent / ".venvs"
    return _ROOT / ".venvs"


def require(name: str) -> None:
    """Check that the interpreter is there and built from the pins of now.

    Raises:
        UserError: it is not; the message has the command that builds it.
    """
    wanted = environment(name)
    if not wanted.is_this() and (problem := wanted.problem()):
        raise UserError(
            f"{name} runs in an interpreter of its own, {wanted.folder}, which {problem}; run: {wanted.command}"
        )


def enter(name: str) -> None:
    """Go on in the interpreter called `name`: the process is replaced by the same command there.

    Arguments, environment, working folder, process id and thus exit status and signals stay what they are. To be
    called before a lock is taken or anything is written. Returns where the process runs in it already.

    Raises:
        UserError: as :func:`require`.
    """
    wanted = environment(name)
    if wanted.is_this():
        return
    require(name)
    if os.environ.get(_ENTERED) == str(wanted.folder):
        raise UserError(
            f"{wanted.python}: runs as {sys.prefix}, not as the interpreter of {wanted.folder}; build it "
            f"again: {wanted.command}"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606
        wanted.python,
        [str(wanted.python), *sys.orig_argv[1:]],
        {**os.environ, _ENTERED: str(wanted.folder)},
    )


def version(name: str, package: str) -> str:
    """The version of a package of the interpreter called `name`, which this process runs in.

    Raises:
        UserError: it runs in another.
    """
    wanted = environment(name)
    if not wanted.is_this():
        raise UserError(
            f"{package} runs in an interpreter of its own, {wanted.folder}, and this process is one of "
            f"{sys.prefix}; the stages change to it by themselves, any other program is to be run by "
            f"{wanted.python}"
        )
    return metadata.version(package)


def packages(name: str) -> Path | None:
    """Where the packages of the interpreter called `name` lie, or None where it is not built."""
    return next(iter(environment(name).folder.glob("lib/python*/site-packages")), None)


def sync(name: str, source: str | None = None) -> Environment:
    """Build the interpreter from its pins, anew where it is stale or not whole; nothing where it is as it should be.

    Args:
        name: as the file in envs/ is called.
        source: where a package that is on no index is to be had: a wheel, a folder with its code or a URL that uv
            installs from. Default: what the variable in :data:`SOURCES` says.

    Raises:
        UserError: uv is missing, a package cannot be had or built, or what was built cannot be imported.
    """
    wanted = environment(name)
    if source is not None and name not in SOURCES:
        raise UserError(f"--source: {name} has all its packages from the index; leave it out")
    with stage_lock(f"environment-{name}", wanted.folder.parent):
        if wanted.problem() is None and source is None:
            return wanted
        if name in SOURCES and not (source := source or os.environ.get(SOURCES[name])):
            raise UserError(
                f"{name} is on no package index; say where it is to be had, as a wheel, a folder with its "
                f"code or a URL that uv installs from: {wanted.command}, or {SOURCES[name]}. See "
                "docs/extractors.md, Isolated interpreters"
            )
        uv = _uv()
        if wanted.folder.exists():
            (wanted.folder / _MARKER).unlink(missing_ok=True)  # first: what is left of it is not whole
            shutil.rmtree(wanted.folder)
        base = sys.executable if sys.version.startswith(f"{PYTHON}.") else PYTHON
        _run(wanted, uv, "venv", "--quiet", "--python", base, str(wanted.folder))
        install = (uv, "pip", "install", "--quiet", "--python", str(wanted.python))
        _run(wanted, *install, "--requirement", str(wanted.pins))
        if source is not None:  # its build imports the torch that is now there
            _run(wanted, *install, "--no-build-isolation", "--no-deps", source)
        _run(wanted, str(wanted.python), "-W", "ignore", "-c", f"import {_IMPORTED.get(name, 'sys')}")
        with atomic_write(wanted.folder / _MARKER) as file:
            json.dump({"pins": wanted.digest(), "source": source}, file)
    return wanted


def _uv() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise UserError("uv is not installed; it builds the interpreters: pip install -r requirements.lock")
    return found


def _run(wanted: Environment, *command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise UserError(
            f"{wanted.folder}: {' '.join(command)} ended with status {done.returncode}, for the reason "
            "above; the interpreter is not built"
        )


def status() -> list[str]:
    """A line for each interpreter: its name, whether it can be used, where it stands or what builds it."""
    lines = []
    for name in names():
        one = environment(name)
        problem = one.problem()
        lines.append(f"{name:12} ready, {one.folder}" if problem is None else f"{name:12} {problem}; {one.command}")
    return lines
