"""Finished layer-masking studies, read from the files that they wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_saliency.checks import plural
from lightning_saliency.files import file_of_this_machine, read_json, reading
from lightning_saliency.studies.layer_masking.results import RESULTS, LayerMaskingResult

_REMEDY = "Run the study again: its cells are kept, and its files are written anew."


def result_of(told: Mapping[str, Any]) -> LayerMaskingResult:
    """The result that a study stored.

    Args:
        told: What ``LayerMaskingResult.as_dict`` gave. Facts and the number of classes may be missing, as they are in
            files of earlier versions.

    Raises:
        KeyError: If another part is missing.
        ValueError: If the reference is not one of the statistics.
    """
    return LayerMaskingResult(
        network=told["network"],
        scales=tuple(told["scales"]),
        seeds=tuple(told["seeds"]),
        accuracies=told["accuracies"],
        unmasked=told["unmasked"],
        facts=tuple(told.get("facts", {}).items()),
        reference=told["reference"],
        classes=told.get("classes"),
    )


def read_result(folder: str | Path) -> LayerMaskingResult:
    """The result of a finished study.

    Args:
        folder: The study's output folder.

    Raises:
        FileNotFoundError: If there is no such folder, or no results in it.
        ValueError: If the results cannot be read, or the folder is a URL.
    """
    place = file_of_this_machine(folder, "folder")
    file = place / RESULTS
    if not file.exists():
        missing = f"which holds no {RESULTS}" if place.is_dir() else "where there is no folder"
        raise FileNotFoundError(
            f"Got {folder}, {missing}. Allowed are output folders of finished layer-masking studies; run "
            "lightning-saliency layer-masking with this output to its end (a study that was stopped goes on)."
        )
    told = read_json(file, "results of a study", _REMEDY)
    with reading(file, "results of a study", _REMEDY):
        return result_of(told)


def read_results(folders: Sequence[str | Path], names: Sequence[str] | None = None) -> dict[str, LayerMaskingResult]:
    """The results of several finished studies, each of a data set of its own.

    Args:
        folders: The studies' output folders.
        names: A name of its data set for each; ``None``: the names of the folders.

    Returns:
        Data set -> result.

    Raises:
        FileNotFoundError: As `read_result` does.
        ValueError: As `read_result` does; or if there is not one name for each folder, or a folder or a name comes
            twice.
    """
    places = [file_of_this_machine(folder, "folder").resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"Got the study {folder} twice. Allowed is each once; leave out one.")
    named = [place.name for place in places] if names is None else list(names)
    if len(named) != len(places):
        raise ValueError(
            f"Got {plural(len(named), 'name')} for {plural(len(places), 'folder')}: {', '.join(named)}. Allowed is one "
            "for each; give as many, in the order of the folders."
        )
    for name in named:
        if named.count(name) > 1:
            raise ValueError(
                f"Got the name {name!r} twice. Allowed is a name of its own for each data set; give names=..., in the "
                "order of the folders."
            )
    return {name: read_result(folder) for name, folder in zip(named, folders, strict=True)}
