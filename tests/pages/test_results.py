"""The pages of results: where their numbers come from, and that what a text says of two explainers was shown."""

from __future__ import annotations

import re

import pytest

from tests.pages.blocks import DOCS
from tools.study_tables import read

RESULTS = DOCS / "results"
RAW = sorted(path for folder in RESULTS.iterdir() if folder.is_dir() for path in folder.iterdir())
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
#: As in (30 November 2026, commit abc1234, torch 2.14.1) or (28 and 29 November 2026, at or just before commits
#: abc1234, def5678, torch not recorded).
ORIGIN = re.compile(rf"\([^()]*\d ({MONTHS}) \d{{4}}, [^()]*commits? [0-9a-f]{{7}}\b[^()]*torch [^()]*\)")


def pages(folder):
    """Those of a folder of raw results: `shortcut.md` and `shortcut_others.md` share one."""
    return [path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob(f"{folder}*.md"))]


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in RAW}))
def test_a_page_names_a_command(folder):
    for page in pages(folder):
        assert re.search(r"^\$ (OMP_NUM_THREADS=1 )?(lightning-saliency|python -m benchmarks\.)", page, re.MULTILINE)


@pytest.mark.parametrize("path", RAW, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_page_says_when_and_by_which_version_a_raw_file_was_made(path):
    lines = [line for page in pages(path.parent.name) for line in page.splitlines() if path.name in line]
    assert lines, f"no page names {path.name}"
    after = [line[line.index(path.name) :] for line in lines]
    assert any(ORIGIN.search(text) for text in after), "no (1 May 2026, commit abc1234, torch 2.14.1) behind it"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(30 November 2026, commit 362207c, torch 2.14.1; beside another study)", True),
        ("(28 and 29 November 2026, at or just before commits 855aa11, dc7a5bc, torch not recorded)", True),
        ("(30 November 2026, torch 2.14.1)", False),
        ("(commit 362207c, torch 2.14.1)", False),
        ("(30 November 2026, commit 362207c)", False),
    ],
)
def test_what_counts_as_an_origin(text, found):
    assert bool(ORIGIN.search(text)) == found


#: A difference and its interval in a text: +1.2, 0.0 to 2.5
NUMBER = r"([+−]?\d+\.\d)"
INTERVAL = re.compile(rf"{NUMBER},? \(?{NUMBER} to {NUMBER}")


def one_digit(estimate):
    """Value and interval as a text gives them."""
    return tuple(f"{value:.1f}".replace("-0.0", "0.0") for value in (estimate.value, estimate.low, estimate.high))


def unshown(text, estimates):
    """The differences of a text that are not those of the estimates, or whose interval holds zero unsaid."""
    known = {one_digit(estimate): estimate for estimate in estimates}
    wrong = []
    for match in INTERVAL.finditer(text):
        said = tuple(number.replace("−", "-").replace("+", "").replace("-0.0", "0.0") for number in match.groups())
        start = max(text.rfind(end, 0, match.start()) for end in (". ", ".\n", "; ", ": ", "\n- "))
        holds = said in known and known[said].low <= 0 <= known[said].high
        if said not in known or holds != ("not shown" in text[max(start, 0) : match.start()]):
            wrong.append(match.group())
    return wrong


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("coco", {"all": "boxes", "masks": "masks"}),
        ("imagenet", {"drop": "boxes", "prior": "boxes", "curves": "boxes", "dear": "boxes"}),
    ],
)
def test_what_the_text_says_of_two_explainers_was_shown(name, raw):
    page = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    text = "\n".join(line for line in page.splitlines() if not line.startswith("|"))
    estimates = []
    for file, objects in raw.items():
        tables = page[page.index(f"{name}/{file}.csv.gz") :]
        pairs = dict.fromkeys(re.findall(r"^\| (\w+) − (\w+) \|", tables.split("\n## ")[0], re.MULTILINE))
        result = read(RESULTS / name / f"{file}.csv.gz", pairs=list(pairs), objects=objects)
        for differences in result.differences().values.values():
            estimates += [estimate for values in differences.values() for estimate in values.values()]
    assert len(INTERVAL.findall(text)) > 20
    assert unshown(text, estimates) == []
    value = next(estimate for estimate in estimates if estimate.low > 0)
    said = "{} ({} to {}".format(*one_digit(value))
    assert unshown(f"Better: {said}).", estimates) == []
    assert unshown(f"Better, not shown: nothing. Not here, not shown: nothing; not shown ({said}).", estimates) == [
        said
    ]
    assert unshown("Better (+99.9, 98.0 to 99.9).", estimates) == ["+99.9, 98.0 to 99.9"]
