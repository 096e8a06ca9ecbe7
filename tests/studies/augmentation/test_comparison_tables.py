"""The tables of the pages on shortcuts and few images, from the raw results that stand beside them."""

from __future__ import annotations

import json
import re

import pytest

from lightning_saliency.studies.augmentation.config import BEFORE
from tests.paths import ROOT
from tools.comparison_tables import NotTheSameError, joined, main, read, result

RESULTS = ROOT / "docs" / "results"
RAW = [*sorted(RESULTS.glob("shortcut/*.json.gz")), RESULTS / "augmentation" / "few_images_digits.json.gz"]


def _rows(text: str) -> list[str]:
    """The tables' rows, without what marks the best."""
    plain = re.sub(r"\*\*|</?u>", "", text)
    return [line for line in plain.splitlines() if line.startswith("| ") and "[" in line]


@pytest.mark.parametrize("page", ["shortcut_others.md", "augmentation.md"])
def test_pages_say_what_the_raw_results_do(page):
    text = (RESULTS / page).read_text()
    told = [path for path in RAW if f"{path.parent.name}/{path.name}" in text]
    assert told
    for path in told:
        end = text.index(f"{path.parent.name}/{path.name}")
        start = text.rindex("\n## ", 0, end)
        after = text.find("\n## ", end)
        section = _rows(text[start : after if after > 0 else None])
        assert len(section) > 4, path
        printed = set(_rows(str(result(read(path)))))
        assert [row for row in section if row not in printed] == [], path


def test_parts_of_a_comparison_are_joined(tmp_path, capsys, monkeypatch):
    whole = read(RESULTS / "shortcut" / "blur_digits.json.gz")
    parts = []
    for arms in (["plain", "smoe", "smoe, random blobs", "smoe, other image"], ["cutmix", "smoe, untrained"]):
        part = json.loads(json.dumps(whole))
        for held in (part["runs"], part["results"]):
            each = held["small CNN"]["steps"]
            held["small CNN"]["steps"] = {arm: each[arm] for arm in each if arm in (BEFORE, "honest", *arms)}
        part["roles"] = {arm: role for arm, role in part["roles"].items() if arm in arms}
        parts.append(tmp_path / f"{len(parts)}.json")
        parts[-1].write_text(json.dumps(part))
    out = tmp_path / "together.json.gz"
    monkeypatch.setattr("sys.argv", ["comparison_tables", *map(str, parts), "--out", str(out)])
    main()
    printed = _rows(capsys.readouterr().out)
    expected = [row for row in _rows(str(result(whole))) if "random_erasing" not in row]
    # Costs were measured by the first part alone.
    differing = [row for row in printed if row not in expected]
    assert all(re.match(r"\| (cutmix|smoe, untrained) \| – \|", row) for row in differing), differing
    assert _rows(str(result(read(out)))) == printed


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda arms: arms[BEFORE]["0"].update(accuracy=0.5), "hold other results of before fine-tuning"),
        (lambda arms: arms[BEFORE].pop("9"), "hold other results of before fine-tuning"),
        (lambda arms: arms.pop(BEFORE), "does not hold 'before fine-tuning'"),
    ],
)
def test_other_networks_are_not_joined(spoil, said):
    first, later = (read(RESULTS / "shortcut" / "blur_digits.json.gz") for _ in range(2))
    spoil(later["runs"]["small CNN"]["steps"])
    with pytest.raises(NotTheSameError, match=said):
        joined(first, later)
