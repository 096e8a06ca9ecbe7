"""The rows of a comparison's table: explainers, each at several values of an option, or the mean of several runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_saliency.checks import check_minimum, did_you_mean
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.explainers.registry import plain_value


@dataclass(frozen=True)
class Sweep:
    """An explainer at several values of one option.

    Args:
        explainer: Name of the explainer.
        option: Name of the option.
        rows: Name of the row of each value, in order, and the value.
    """

    explainer: str
    option: str
    rows: tuple[tuple[str, Any], ...]


def swept(
    rows: Mapping[str, ExplainerSpec], sweeps: Mapping[str, Mapping[str, Sequence[Any]]]
) -> tuple[dict[str, ExplainerSpec], list[Sweep]]:
    """Rows with a row a value in the place of each explainer that is swept.

    Args:
        rows: Name -> explainer.
        sweeps: Name -> option -> values; one option each.

    Raises:
        TypeError: If an explainer has no such option.
        ValueError: If a name is none of a row, or there is not one option with two values or more.

    Example:
        >>> from lightning_saliency.explainers import parse_explainers
        >>> found, sweeps = swept(parse_explainers(["sise", "random"]), {"sise": {"mu": [0.0, 0.5]}})
        >>> list(found), sweeps[0].option
        (['sise, mu=0.0', 'sise, mu=0.5', 'random'], 'mu')
    """
    _check_names("sweeps", sweeps, rows)
    found: dict[str, ExplainerSpec] = {}
    told: list[Sweep] = []
    for name, spec in rows.items():
        if name not in sweeps:
            found[name] = spec
            continue
        options = sweeps[name]
        values = next(iter(options.values()), ()) if isinstance(options, Mapping) and len(options) == 1 else ()
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise ValueError(
                f"Got sweeps={{{name}: {options}}}. Allowed is one option with two values or more, such as "
                f"{{{name}: {{option: [1, 2]}}}}."
            )
        option = next(iter(options))
        made = [(f"{name}, {option}={_as_in_yaml(value)}", value) for value in values]
        _check_distinct("sweeps", [row for row, _ in made], [*rows, *found])
        found |= {row: spec.with_options(**{option: value}) for row, value in made}
        told.append(Sweep(name, option, tuple(made)))
    return found, told


def runs_of(
    rows: Mapping[str, ExplainerSpec], repeats: Mapping[str, int], sweeps: Iterable[Sweep]
) -> dict[str, dict[str, ExplainerSpec]]:
    """Each row's runs: itself, or as many with seeds of their own, one after the other from its seed on.

    Args:
        rows: Name -> explainer, as `swept` returns them.
        repeats: Name -> number of runs. An explainer that is swept is named without its values.
        sweeps: What was swept.

    Raises:
        TypeError: If an explainer that is repeated has no option ``seed``.
        ValueError: If a name is none of a row, or a number is none.

    Example:
        >>> from lightning_saliency.explainers import parse_explainers
        >>> list(runs_of(parse_explainers(["rise", "smoe"]), {"rise": 2}, [])["rise"])
        ['rise, seed=0', 'rise, seed=1']
    """
    bases = {row: sweep.explainer for sweep in sweeps for row, _ in sweep.rows}
    _check_names("repeats", repeats, {bases.get(row, row): None for row in rows})
    found = {}
    for row, spec in rows.items():
        count = repeats.get(bases.get(row, row), 1)
        check_minimum(f"repeats of {row}", count, 1)
        if count == 1:
            found[row] = {row: spec}
            continue
        if not spec.takes("seed"):
            raise TypeError(
                f"Got repeats of {row}, which has no option seed, so that its runs would be alike. Allowed are "
                "explainers with one, such as rise; leave it out of repeats."
            )
        first = spec.option("seed") or 0
        found[row] = {f"{row}, seed={first + run}": spec.with_options(seed=first + run) for run in range(count)}
        _check_distinct("repeats", list(found[row]), rows)
    return found


def mean_lines(runs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The lines of a row, one a map, from those of its runs: the means of scores, curves, costs and maps."""
    if len(runs) == 1:
        return runs[0]
    found = []
    for lines in zip(*runs, strict=True):
        maps = [np.frombuffer(base64.b64decode(line["map"]), dtype=np.uint8) for line in lines]
        mean_map = np.mean(maps, axis=0).round().astype(np.uint8)
        found.append(
            {
                **lines[0],
                **{key: float(np.mean([line[key] for line in lines])) for key in ("seconds", "passes")},
                "scores": {key: float(np.mean([line["scores"][key] for line in lines])) for key in lines[0]["scores"]},
                "curves": {
                    key: np.mean([line["curves"][key] for line in lines], axis=0).tolist() for key in lines[0]["curves"]
                },
                "map": base64.b64encode(mean_map.tobytes()).decode(),
            }
        )
    return found


def _check_distinct(option: str, made: Sequence[str], others: Collection[str]) -> None:
    twice = sorted({name for name in made if made.count(name) > 1 or name in others})
    if twice:
        raise ValueError(
            f"Got {option} that make the row {twice[0]!r} twice. Allowed is each name once; give each value once, and "
            "other rows other names."
        )


def _as_in_yaml(value: Any) -> str:
    plain = plain_value(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _check_names(option: str, given: Iterable[str], rows: Iterable[str]) -> None:
    allowed = list(rows)
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ValueError(
            f"Got {option} of {', '.join(unknown)}. Allowed are the explainers of the comparison, "
            f"{', '.join(allowed)}; name one of them.{''.join(did_you_mean(name, allowed) for name in unknown)}"
        )
