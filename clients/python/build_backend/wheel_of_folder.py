"""What pip asks to install the package: a wheel of the folder ratelimit_postgresql, as it is.

pip calls these functions (PEP 517). The usual backends do the same, but pip has to fetch
them first, and the package can also be installed where there is no network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Optional

TOP = Path(__file__).resolve().parent.parent
PACKAGE = "ratelimit_postgresql"
TAG = "py3-none-any"

with open(TOP / "pyproject.toml", "rb") as file:
    project: dict[str, Any] = tomllib.load(file)["project"]

BASE = f"{PACKAGE}-{project['version']}"


def _metadata() -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
    ]
    for extra, requirements in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {requirement} ; extra == "{extra}"' for requirement in requirements]
    readme = (TOP / "README.md").read_text()
    return ("\n".join(lines) + "\n\n" + readme).encode()


def _package_files() -> list[Path]:
    return sorted(path for path in (TOP / PACKAGE).rglob("*") if path.suffix == ".py" or path.name == "py.typed")


def build_wheel(
    wheel_directory: str, config_settings: Optional[dict[str, Any]] = None, metadata_directory: Optional[str] = None
) -> str:
    info = f"{BASE}.dist-info"
    files = {path.relative_to(TOP).as_posix(): path.read_bytes() for path in _package_files()}
    files[f"{info}/METADATA"] = _metadata()
    files[
        f"{info}/WHEEL"
    ] = f"Wheel-Version: 1.0\nGenerator: {Path(__file__).stem}\nRoot-Is-Purelib: true\nTag: {TAG}\n".encode()
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()

    wheel = f"{BASE}-{TAG}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), content)
    return wheel


def build_sdist(sdist_directory: str, config_settings: Optional[dict[str, Any]] = None) -> str:
    sdist = f"{BASE}.tar.gz"
    files = [*_package_files(), Path(__file__).resolve(), TOP / "pyproject.toml", TOP / "README.md"]
    with tarfile.open(Path(sdist_directory) / sdist, "w:gz") as out:
        for path in files:
            out.add(path, f"{BASE}/{path.relative_to(TOP).as_posix()}")
        metadata = _metadata()
        entry = tarfile.TarInfo(f"{BASE}/PKG-INFO")
        entry.size = len(metadata)
        out.addfile(entry, io.BytesIO(metadata))
    return sdist
