"""Builds the source archive and the wheel, checks them, and tries the wheel in clean environments.

    python scripts/check_package.py           build, check and try
    python scripts/check_package.py --lock    renew requirements-dev.lock, with the newest versions

A clean environment holds the wheel and one extra. There the public names are imported, the first lines of README.md
print what they say, a missing framework is named, and the command line runs. Each Python version of the classifiers is
tried if this machine has it, and so are the oldest versions of the dependencies that pyproject.toml allows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("multiembed", "langchain_multiembed", "llamaindex_multiembed")
LOCK = ROOT / "requirements-dev.lock"
COMPILE = (
    "uv pip compile pyproject.toml --extra all --extra notebooks --extra semantic --group dev --universal "
    "--generate-hashes --no-emit-index-url --quiet"
)
TRY = """
import contextlib, importlib, importlib.metadata, io, re, sys
import multiembed

for name in multiembed.__all__:
    getattr(multiembed, name)
page = importlib.metadata.metadata("multiembed")["Description"]
code, expected = re.search(r"^```python\\n(.*?)^```\\n+```text\\n(.*?)^```", page, re.M | re.S).groups()
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    exec(code, {})
assert printed.getvalue() == expected, printed.getvalue()
for extra, model in (("langchain", "model"), ("llamaindex", "model_name")):
    try:
        package = importlib.import_module(f"{extra}_multiembed")
    except ModuleNotFoundError as error:
        assert extra not in sys.argv and f"[{extra}]" in str(error), error
    else:
        assert extra in sys.argv, f"{extra} is installed"
        made = getattr(package, package.__all__[0])(**{model: "local:char-ngrams"}, dimensions=8)
        embed = getattr(made, "embed_query", None) or made.get_query_embedding
        assert len(embed("a question")) == 8
"""


def run(*command: str | Path) -> str:
    """What a command prints. A status other than 0 ends the check."""
    environment = {**os.environ, "PYTHONWARNINGS": "error::SyntaxWarning", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}\nstatus {done.returncode}")
    return done.stdout + done.stderr


def build(folder: Path) -> Path:
    """The wheel, built from the source archive; both are checked."""
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder, ".")
    run(sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir())
    run(sys.executable, "-m", "build", "--installer", "uv", "--wheel", "--outdir", folder / "direct", ".")
    wheel = next(folder.glob("*.whl"))
    if wheel.read_bytes() != (folder / "direct" / wheel.name).read_bytes():
        sys.exit("The source archive does not build the wheel that the repository builds.")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds the files of the three packages, the licence and its own data, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        own = {name for name in names if name.split("/")[0].endswith(".dist-info")}
        metadata = archive.read(next(name for name in own if name.endswith("/METADATA")))
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    wanted = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    wanted_own = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    differences = (names - own) ^ wanted | {name.split("/", 1)[1] for name in own} ^ wanted_own
    differences |= {f"{package}/py.typed" for package in PACKAGES} - names
    if differences:
        sys.exit(f"The wheel has these files too many or too few: {sorted(differences)}")
    page = BytesParser().parsebytes(metadata).get_payload()
    links = re.findall(r"\]\((?!https?://|#)[^)]*\)|<img [^>]*>", str(page))
    if links:
        sys.exit(f"These links of README.md lead nowhere on an index page: {links}")


def interpreters() -> dict[str, str]:
    """The interpreters of this machine by the Python versions of the classifiers."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = {}
    for version in re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text):
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
        for candidate in filter(None, [shutil.which(f"python{version}"), *map(str, pyenv)]):
            if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
                found[version] = candidate
                break
        else:
            print(f"not tried: this machine has no Python {version}")
    return found


def try_wheel(wheel: Path, extra: str, python: str, *more: str) -> None:
    """Install the wheel with an extra in a clean environment, and use it."""
    with tempfile.TemporaryDirectory() as folder:
        run("uv", "venv", "--quiet", "--no-python-downloads", "--python", python, folder)
        programs = Path(folder) / "bin"
        requirement = f"multiembed[{extra}] @ {wheel.as_uri()}"
        run("uv", "pip", "install", "--quiet", "--python", programs / "python", *more, requirement)
        extras = ["langchain", "llamaindex", "cli"] if extra == "all" else [extra]
        run(programs / "python", "-I", "-W", "error", "-c", TRY, *extras)
        command = programs / "multiembed"
        if "cli" in extras:
            version = wheel.name.split("-")[1]
            if version not in run(command, "--version") or "char-ngrams" not in run(command, "models"):
                sys.exit("The command line does not show its version and its models.")
        else:
            shown = subprocess.run([command, "--version"], text=True, capture_output=True)
            if "Traceback" in shown.stderr or (shown.returncode and "[cli]" not in shown.stderr):
                sys.exit(f"multiembed --version without the extra [cli]:\n{shown.stderr}")


def lock(*, upgrade: bool) -> None:
    """Renew requirements-dev.lock, or check that it is the one of pyproject.toml."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / LOCK.name
        if not upgrade:
            shutil.copy(LOCK, made)
        command = "python scripts/check_package.py --lock"
        run(*COMPILE.split(), "--custom-compile-command", command, "--output-file", made)
        if upgrade:
            shutil.copy(made, LOCK)
        elif made.read_text(encoding="utf-8") != LOCK.read_text(encoding="utf-8"):
            sys.exit(f"{LOCK.name} does not match pyproject.toml: {command} renews it.")


def main() -> None:
    """Run the checks; the first that fails ends the program with its reason."""
    if "--lock" in sys.argv:
        return lock(upgrade=True)
    started = time.monotonic()
    lock(upgrade=False)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"][2:]
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        check_contents(wheel)
        print(f"{wheel.name}: built, checked ({time.monotonic() - started:.0f} s)")
        bounds = ("--resolution", "lowest-direct", "--python-version", oldest, "--output-file", f"{folder}/oldest.txt")
        run("uv", "pip", "compile", "pyproject.toml", "--extra", "all", *bounds)
        for version, python in interpreters().items():
            first = [("",), ("langchain",), ("llamaindex",), ("cli",), ("all", "--constraint", f"{folder}/oldest.txt")]
            for extra, *constraint in first if version == oldest else [("all",)]:
                try_wheel(wheel, extra, python, *constraint)
                dependencies = "oldest" if constraint else "newest"
                print(f"Python {version} [{extra}], {dependencies} dependencies ({time.monotonic() - started:.0f} s)")
    return None


if __name__ == "__main__":
    main()
