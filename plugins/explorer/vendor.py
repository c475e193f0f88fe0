"""Copy the libraries of the page from their npm packages: python plugins/explorer/vendor.py, which needs npm.

The page runs in browsers without a build, so the files are kept in the repository as their authors publish them.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "eventmill_explorer" / "static" / "vendor"


def main() -> None:
    """Write every file of vendor.json. Raise SystemExit if one is not what is expected."""
    for entry in json.loads((HERE / "vendor.json").read_text()):
        content = read(entry["package"], entry["file"])
        if (found := hashlib.sha256(content).hexdigest()) != entry["sha256"]:
            raise SystemExit(f"{entry['as']}: the SHA-256 is {found}, not that of vendor.json")
        (FOLDER / entry["as"]).write_bytes(content)


def read(package: str, file: str) -> bytes:
    """Return a file of an npm package, such as `echarts@5.6.0`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607
        [archive] = Path(folder).iterdir()
        with tarfile.open(archive) as packed:
            member = packed.extractfile(f"package/{file}")
            if member is None:
                raise SystemExit(f"{package} has no file {file}")
            return member.read()


if __name__ == "__main__":
    main()
