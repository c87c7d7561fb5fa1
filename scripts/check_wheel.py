"""Build the wheel, install it in a clean environment, and see that it brings one name and a working command."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Exit with 1 and the reason where the wheel is not what it should be."""
    with TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        wheel = next(Path(folder).glob("*.whl"))
        names = zipfile.ZipFile(wheel).namelist()
        top = {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]}
        if top != {"entcent_agents"}:
            sys.exit(f"{wheel.name} has the top-level names {sorted(top)}; it may have entcent_agents alone")
        for needed in ("entcent_agents/py.typed", "entcent_agents/chat/templates/qwen2.5-coder.jinja"):
            if needed not in names:
                sys.exit(f"{wheel.name} lacks {needed}")
        clean = Path(folder) / "clean"
        venv.create(clean, with_pip=True)
        python = clean / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        subprocess.run([python, "-c", "import entcent_agents.prebuilt"], check=True, cwd=folder)
        ran = subprocess.run(
            [clean / "bin" / "entcent", "run", "anything"], capture_output=True, text=True, cwd=folder, check=False
        )
        if ran.returncode != 2 or "pass --agent FILE:FACTORY" not in ran.stderr:
            sys.exit(f"entcent run without a checkout: exit {ran.returncode}, {ran.stderr!r}")
    sys.stdout.write(f"{wheel.name}: entcent_agents alone, and the command works\n")


if __name__ == "__main__":
    main()
