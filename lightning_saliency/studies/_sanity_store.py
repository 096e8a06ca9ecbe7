"""The results of a sanity check, explainer by explainer, in files that are whole or not there."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_saliency.studies._sanity_results import MODES, ExplainerCheck


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    stem = re.sub(r"[^A-Za-z0-9.=-]+", "_", name)
    return folder / "explainers" / f"{stem}.json", folder / "explainers" / f"{stem}.npz"


def read_check(folder: Path, name: str, fingerprint: str) -> ExplainerCheck | None:
    """The result that was kept, if it is whole and depends on the same."""
    result, pictures = _files(folder, name)
    if not result.is_file() or not pictures.is_file():
        return None
    try:
        check = ExplainerCheck.from_json(result.read_text(encoding="utf-8"))
    except ValueError:
        # Of another version of this file's format, or damaged: made anew.
        return None
    if check.fingerprint != fingerprint:
        return None
    with np.load(pictures) as arrays:
        return replace(check, pictures={mode: arrays[mode] for mode in MODES})


def keep_check(folder: Path, check: ExplainerCheck) -> None:
    """Keep a result, with its pictures, in the place of an earlier one."""
    result, pictures = _files(folder, check.name)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **check.pictures)  # type: ignore[arg-type]
    # Where there is a result, its pictures are there too.
    result.unlink(missing_ok=True)
    write_file(pictures, arrays.getvalue())
    write_file(result, check.to_json().encode())


def write_file(path: Path, content: bytes) -> Path:
    """Write a file under another name, then rename it; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
