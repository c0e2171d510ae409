"""Separate environments (venvs) for packages that conflict with the core's: pinned in envs/, built below .venvs/.

`python -m pipeline.environments sync NAME` builds one with uv, `… status` lists them. A stage whose extractor needs one
re-runs itself there, by :func:`enter`. What a cluster's workers need in it on top is pinned in envs/ray/.
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
"""Environments whose main package is on no index, and the variable that may say where to install it from."""

_IMPORTED = {
    "detectron2": "detectron2.modeling",
    "easyocr": "easyocr",
    "flair": "flair",
    "lavis": "lavis.models",
    "vlm": "torchvision",
}
_ROOT = Path(__file__).resolve().parents[2]
_MARKER = "sightread.json"  # a folder with it is ours; its pins are those that were installed, null until all are
_ENTERED = "SIGHTREAD_INTERPRETER"  # the environment that a process was re-run in


@dataclass(frozen=True)
class Environment:
    """A separate environment: its name, the file with its pins, and its folder."""

    name: str
    pins: Path
    folder: Path

    @property
    def python(self) -> Path:
        """Its Python program."""
        return self.folder / "bin" / "python"

    @property
    def command(self) -> str:
        """The command that builds it."""
        source = "" if self.name not in SOURCES else " --source PATH_OR_URL"
        return f"python -m pipeline.environments sync {self.name}{source}"

    @property
    def ray_pins(self) -> Path:
        """The file with what a cluster's workers need on top; it is not there where nothing reads in it."""
        return self.pins.parent / "ray" / self.pins.name

    @property
    def ray_command(self) -> str:
        """The command that builds it with Ray, or adds that."""
        return f"{self.command} --ray"

    def digest(self) -> str:
        """SHA-256 of the pins; comments do not count."""
        return _digest(self.pins)

    def problem(self) -> str | None:
        """Why it cannot be used, or None."""
        if not self.folder.exists():
            return "is not built"
        installed = self._noted("pins")
        if installed is None or not self.python.exists():
            return "is incomplete"
        if installed != self.digest():
            return f"is out of date: {self.pins.parent.name}/{self.pins.name} has changed since it was built"
        return None

    def ray_problem(self) -> str | None:
        """Why no cluster's workers can run in it, once it can be used, or None."""
        if not self.ray_pins.exists():
            return f"cannot have Ray: there are no pins in {self.ray_pins}"
        noted = self._noted("ray")
        if noted is None:
            return "has no Ray"
        return None if noted == _digest(self.ray_pins) else f"has another Ray than {self.ray_pins} now names"

    def is_ours(self) -> bool:
        """Whether :func:`sync` made the folder, to the end or not."""
        return (self.folder / _MARKER).is_file()

    def _noted(self, what: str) -> str | None:
        """The digest of the pins that were installed (pins, ray), or where the rest is from (source); None where there
        is none, or the installation did not end."""
        try:
            noted = json.loads((self.folder / _MARKER).read_text(encoding="utf-8"))[what]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return noted if isinstance(noted, str) else None

    def is_this(self) -> bool:
        """Whether this process runs in it."""
        return Path(sys.prefix).resolve() == self.folder.resolve()


def _digest(pins: Path) -> str:
    lines = (line.partition("#")[0].strip() for line in pins.read_text(encoding="utf-8").splitlines())
    return hashlib.sha256("\n".join(filter(None, lines)).encode()).hexdigest()


def names() -> list[str]:
    """The environments that envs/ has pins for."""
    return sorted(path.stem for path in (_ROOT / "envs").glob("*.txt"))


def environment(name: str) -> Environment:
    """The environment called `name`.

    Raises:
        UserError: envs/ has no pins for it, or ``SIGHTREAD_VENVS`` is not an absolute path.
    """
    pins = _ROOT / "envs" / f"{name}.txt"
    if name not in names():
        raise UserError(f"{pins}: no such file; the environments are {', '.join(names())}")
    return Environment(name, pins, folder() / name)


def folder() -> Path:
    """Where environments are built: the folder named by ``SIGHTREAD_VENVS``, else ``.venvs`` of the project.

    `dvc exp run --temp` and DVC's queue run in copies of what git tracks, below ``.dvc/tmp`` of the project itself;
    there it is that project's ``.venvs``.

    Raises:
        UserError: the variable is not an absolute path.
    """
    if (given := given_folder(VARIABLE)) is not None:
        return given
    for parent in _ROOT.parents:
        if (parent.parent.name, parent.name) == (".dvc", "tmp"):
            return parent.parent.parent / ".venvs"
    return _ROOT / ".venvs"


def require(name: str) -> None:
    """Check that the environment is built, from the present pins.

    Raises:
        UserError: it is not; the message has the command that builds it.
    """
    wanted = environment(name)
    if not wanted.is_this() and (problem := wanted.problem()):
        raise _unusable(wanted, problem)


def require_ray(name: str) -> None:
    """Check that a cluster's workers can run in the environment, which is built.

    Raises:
        UserError: they cannot; the message has the command that adds what they need.
    """
    wanted = environment(name)
    if problem := wanted.ray_problem():
        raise UserError(
            f"execution.engine: ray: {name} runs in a separate environment, {wanted.folder}, which {problem}; run, on "
            f"every node: {wanted.ray_command}"
        )


def getting(package: str) -> str:
    """What to do for a package of requirements-ray.lock to be where this process runs, as a message says it."""
    here = next((one for one in map(environment, names()) if one.is_this()), None)
    if here is None:
        return "run: pip install --no-deps -r requirements-ray.lock"
    if here.ray_pins.exists() and f"\n{package}==" in here.ray_pins.read_text(encoding="utf-8"):
        return f"run: {here.ray_command}"
    return f"{package} does not go with the packages of {here.name}"


def _unusable(wanted: Environment, problem: str) -> UserError:
    return UserError(
        f"{wanted.name} needs a separate environment, {wanted.folder}, which {problem}; run: {wanted.command}"
    )


def enter(name: str) -> None:
    """Continue in the environment called `name`: the process is replaced by the same command there.

    Arguments, environment variables, working folder and process id stay the same, and so do exit status and signals.
    Call it before a lock is taken or anything is written. Returns if the process already runs there.

    Raises:
        UserError: as :func:`require`.
    """
    wanted = environment(name)
    if wanted.is_this():
        return
    require(name)
    if os.environ.get(_ENTERED) == str(wanted.folder):
        raise UserError(
            f"{wanted.python}: starts the Python of {sys.prefix} instead of that of {wanted.folder}; delete the folder "
            f"and build it again: {wanted.command}"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606
        wanted.python,
        [str(wanted.python), *sys.orig_argv[1:]],
        {**os.environ, _ENTERED: str(wanted.folder)},
    )


def version(name: str, package: str) -> str:
    """The version of a package of the environment called `name`, in which this process runs.

    Raises:
        UserError: it runs elsewhere, or the package is missing.
    """
    wanted = environment(name)
    if not wanted.is_this():
        raise UserError(
            f"{package} is in a separate environment, {wanted.folder}, but this process runs in {sys.prefix}; stages "
            f"change to it by themselves, start any other program with {wanted.python}"
        )
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise _unusable(wanted, "is incomplete") from None


def packages(name: str) -> Path | None:
    """The folder with the packages of the environment called `name`, or None where it is not built."""
    return next(iter(environment(name).folder.glob("lib/python*/site-packages")), None)


def sync(name: str, source: str | None = None, ray: bool = False) -> Environment:
    """Build the environment from its pins where it is missing, incomplete or out of date; otherwise do nothing.

    Args:
        name: the name of the file in envs/.
        source: where to install a package from that is on no index: a wheel, a source folder or a URL that uv
            accepts. Default: the value of the variable in :data:`SOURCES`.
        ray: also what a cluster's workers need in it; one that has that keeps it.

    Raises:
        UserError: uv is missing, a package is not available or cannot be built, the result cannot be imported, the
            folder holds something that was not built here, or no cluster's workers run in it.
    """
    wanted = environment(name)
    if source is not None and name not in SOURCES:
        raise UserError(f"--source: {name} gets all its packages from the index; leave the option out")
    if ray and not wanted.ray_pins.exists():
        raise UserError(f"--ray: nothing in {name} reads pictures or posts on a cluster; leave the option out")
    with stage_lock(f"environment-{name}", wanted.folder.parent):
        ray = ray or wanted._noted("ray") is not None
        if wanted.problem() is not None or source is not None:
            _build(wanted, source)
        if ray and wanted.ray_problem() is not None:
            _add_ray(wanted)
    return wanted


def _build(wanted: Environment, source: str | None) -> None:
    """Build it anew; raises UserError as of :func:`sync`."""
    name = wanted.name
    if name in SOURCES and not (source := source or os.environ.get(SOURCES[name])):
        raise UserError(
            f"{name} is on no package index; name a wheel, a source folder or a URL that uv installs from: "
            f"{wanted.command}, or {SOURCES[name]}. See docs/extractors.md, Separate environments"
        )
    uv = _uv()
    _clear(wanted, source)
    base = sys.executable if sys.version.startswith(f"{PYTHON}.") else PYTHON
    _run(wanted, uv, "venv", "--quiet", "--allow-existing", "--python", base, str(wanted.folder))
    install = (uv, "pip", "install", "--quiet", "--python", str(wanted.python))
    _run(wanted, *install, "--requirement", str(wanted.pins))
    if source is not None:  # its build imports the torch that is now there
        _run(wanted, *install, "--no-build-isolation", "--no-deps", source)
    _run(wanted, str(wanted.python), "-W", "ignore", "-c", f"import {_IMPORTED.get(name, 'sys')}")
    _mark(wanted, {"pins": wanted.digest(), "source": source})


def _add_ray(wanted: Environment) -> None:
    """Install what a cluster's workers need; nothing that is there is replaced by another version."""
    noted: dict[str, str | None] = {"pins": wanted.digest(), "source": wanted._noted("source")}
    _mark(wanted, noted)
    install = (_uv(), "pip", "install", "--quiet", "--python", str(wanted.python), "--no-deps")
    _run(wanted, *install, "--requirement", str(wanted.ray_pins))
    _mark(wanted, {**noted, "ray": _digest(wanted.ray_pins)})


def _clear(wanted: Environment, source: str | None) -> None:
    """Make the environment's folder empty but for its marker, which is what allows to delete the rest.

    Raises:
        UserError: the folder holds something that :func:`sync` did not make, or the source is in it.
    """
    if source is not None and Path(source).expanduser().resolve().is_relative_to(wanted.folder.resolve()):
        raise UserError(f"--source {source}: is in {wanted.folder}, where the environment is built; move it elsewhere")
    if wanted.folder.exists() and not wanted.is_ours() and not _is_empty(wanted.folder):
        raise UserError(
            f"{wanted.folder}: was not built by this command, so it is not deleted; move it away, or set {VARIABLE} to "
            "another folder"
        )
    wanted.folder.mkdir(parents=True, exist_ok=True)
    _mark(wanted, {"pins": None})
    for path in wanted.folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _MARKER:
            path.unlink()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _mark(wanted: Environment, content: dict[str, str | None]) -> None:
    with atomic_write(wanted.folder / _MARKER) as file:
        json.dump(content, file)


def _uv() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise UserError("uv is not installed; it builds the separate environments; run: pip install uv")
    return found


def _run(wanted: Environment, *command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise UserError(
            f"{wanted.folder}: {' '.join(command)} failed with status {done.returncode}; its output "
            "is above. The environment is incomplete"
        )


def status() -> list[str]:
    """A line for each environment: its name, whether it can be used, its folder or the command that builds it."""
    lines = []
    for name in names():
        one = environment(name)
        problem = one.problem()
        ray = ", with Ray" if one.ray_problem() is None else ""
        state = f"ready, {one.folder}{ray}" if problem is None else f"{problem}; {one.command}"
        lines.append(f"{name:12} {state}")
    return lines
