"""The page of the sanity check says what its raw results do."""

from __future__ import annotations

import gzip
import json

import pytest

from benchmarks.sanity_calibration import MIXTURES, SHARES, main, passes_from, unexpected
from lightning_saliency.studies.sanity_check.stored import result_of
from tests.paths import ROOT
from tools.study_tables import read

RAW = ROOT / "docs" / "results" / "sanity_check"
PAGE = (ROOT / "docs" / "results" / "sanity_check.md").read_text()


def rows(text):
    """The rows with intervals."""
    return [line for line in text.splitlines() if line.startswith("| ") and "[" in line]


@pytest.fixture(scope="module")
def mixtures():
    return result_of(json.loads(gzip.decompress((RAW / "mixtures.json.gz").read_bytes()))["result"])


def test_the_tables_are_those_of_the_raw_results(mixtures, capsys, monkeypatch):
    four = str(read(RAW / "all_random.json.gz"))
    monkeypatch.setattr("sys.argv", ["sanity_calibration", "--read", str(RAW / "mixtures.json.gz")])
    main()
    printed = rows(four) + rows(capsys.readouterr().out)
    assert len(printed) == 10 + len(SHARES)
    assert rows(PAGE) == printed


def test_the_verdicts_are_those_that_the_page_tells(mixtures):
    four = read(RAW / "all_random.json.gz")
    kinds = {check.name: check.verdict().kind for check in four.checks}
    assert kinds == {**dict.fromkeys(("smoe", "fast_cam", "group_cam", "sise"), "fallen"), "edges": "insensitive"}
    assert "44 of 50 maps are constant" in four["group_cam"].verdict().line
    assert [passes_from(mixtures, *mixture) for mixture in MIXTURES] == [0.6, 0.7, 0.7, 0.6]
    assert unexpected(mixtures) == []


def test_a_verdict_that_must_not_be_is_named(mixtures):
    """Had a hundredth of noise the similarities of noise alone, it would pass, and be told."""
    told = json.loads(json.dumps(mixtures.as_dict()))
    by_name = {check["name"]: check for check in told["checks"]}
    first, last = by_name["edges, noise 0.01"], by_name["edges, noise 1.0"]
    by_name["edges, noise 0.01"].update({key: last[key] for key in ("random", "level")})
    by_name["few edges, noise 1.0"].update({key: by_name["few edges, noise 0.01"][key] for key in ("random", "level")})
    assert first["name"] == "edges, noise 0.01"
    assert unexpected(result_of(told)) == ["edges, noise 0.01", "few edges, noise 1.0"]


def test_results_without_correlation_have_no_verdict():
    with pytest.raises(ValueError, match="without Pearson's correlation, of an earlier version"):
        read(RAW / "results.json.gz")
