"""Build the wheel, install it in a clean environment, and see that it brings one name, a working command and types.

What types a user sees is seen with `scripts/wheel_user.py`, which uses every public name of the root: under pyright and
mypy, both strict, and it is run. `pyright --verifytypes` then counts the public symbols whose type is known.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parent.parent
EXTRAS = "langchain,otel,postgres"
"""Those whose types are in public signatures."""
STRICT = {
    "include": ["wheel_user.py"],
    "typeCheckingMode": "strict",
    # LangGraph is a namespace package, in which pyright does not see `py.typed`; it also leaves type parameters open.
    "reportMissingTypeStubs": False,
    "reportUnknownMemberType": False,
}

UNSEEN = "openai langsmith httpx httpx2 rich typer tiktoken psycopg".split()
"""Packages that take mypy long and are in no signature that a user sees: it need not read them."""


def main() -> None:
    """Exit with 1 and the reason where the wheel is not what it should be."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built(folder)
        clean = folder / "clean"
        venv.create(clean, with_pip=True)
        installed(wheel, clean)
        user = folder / "user"
        user.mkdir()
        shutil.copy(ROOT / "scripts" / "wheel_user.py", user)
        run_as_user(clean, user)
        typed(clean, user)
        symbols = all_known(clean)
    sys.stdout.write(f"{wheel.name}: entcent_agents alone, the command works, {symbols} public symbols have types\n")


def built(folder: Path) -> Path:
    """The wheel, which may bring one top-level name."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    wheel = next(folder.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]}
    if top != {"entcent_agents"}:
        sys.exit(f"{wheel.name} has the top-level names {sorted(top)}; it may have entcent_agents alone")
    for needed in ("entcent_agents/py.typed", "entcent_agents/chat/templates/qwen2.5-coder.jinja"):
        if needed not in names:
            sys.exit(f"{wheel.name} lacks {needed}")
    return wheel


def installed(wheel: Path, clean: Path) -> None:
    """The wheel by itself, which has to work without any extra; then what its types refer to."""
    python = clean / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    subprocess.run([python, "-c", "import entcent_agents.prebuilt"], check=True, cwd=clean)
    said = said_by([python, "-c", "from entcent_agents import EntropyCentroidMiddleware"], clean, expected=1)
    if "pip install 'entcent-agents[langchain]'" not in said:
        sys.exit(f"the middleware without LangChain: {said!r}")
    said = said_by([clean / "bin" / "entcent", "run", "anything"], clean, expected=2)
    if "pass --agent FILE:FACTORY" not in said:
        sys.exit(f"entcent run without a checkout: {said!r}")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[{EXTRAS}]"], check=True)


def run_as_user(clean: Path, user: Path) -> None:
    """What a user wrote runs."""
    said_by([clean / "bin" / "python", "-W", "error", "wheel_user.py"], user)


def typed(clean: Path, user: Path) -> None:
    """What a user wrote passes both checkers."""
    (user / "pyrightconfig.json").write_text(json.dumps(STRICT))
    said_by([tool("pyright"), "--pythonpath", clean / "bin" / "python", "-p", "."], user)
    unseen = [f"[mypy-{package}.*]\nfollow_imports = skip\n" for package in UNSEEN]
    (user / "mypy.ini").write_text("\n".join(["[mypy]\nstrict = true\n", *unseen]))
    said_by([tool("mypy"), "--python-executable", clean / "bin" / "python", "wheel_user.py"], user)


def all_known(clean: Path) -> int:
    """How many public symbols there are, all of which have a type that every checker reads alike."""
    packages = Path(said_by([clean / "bin" / "python", "-c", "import numpy; print(numpy.__path__[0])"], clean)).parent
    # A regular package in this environment, so that pyright takes the types of LangGraph, and not only ours, as given.
    (packages / "langgraph" / "__init__.py").touch()
    environment = os.environ | {"PATH": f"{clean / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    verify = [tool("pyright"), "--verifytypes", "entcent_agents", "--ignoreexternal", "--outputjson"]
    ran = subprocess.run(verify, capture_output=True, text=True, cwd=clean, env=environment, check=False)
    found: dict[str, Any] = json.loads(ran.stdout)["typeCompleteness"]
    unclear = [
        f"{symbol['name']}: {said['message']}"
        for symbol in found["symbols"]
        for said in symbol["diagnostics"]
        if said["severity"] == "error"
    ]
    counts: dict[str, int] = found["exportedSymbolCounts"]
    if unclear or not counts["withKnownType"]:
        sys.exit("public symbols without a plain type:\n" + "\n".join(unclear))
    return counts["withKnownType"]


def tool(name: str) -> Path:
    """A checker, beside the Python that runs this."""
    return Path(sys.executable).parent / name


def said_by(command: list[str | Path], folder: Path, expected: int = 0) -> str:
    """What a command wrote; the end of this program where its exit code is another."""
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if ran.returncode != expected:
        sys.exit(f"{' '.join(map(str, command))}: exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return (ran.stdout + ran.stderr).strip()


if __name__ == "__main__":
    main()
