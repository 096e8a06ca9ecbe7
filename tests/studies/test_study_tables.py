"""The tables of a study from the raw results that stand beside a page, and that the pages say what those do."""

from __future__ import annotations

import gzip
import re

import pytest
import torch

from lightning_saliency.studies import run_comparison
from lightning_saliency.studies.layer_masking.results import LayerMaskingResult
from lightning_saliency.studies.roar_kar.results import RoarKarResult
from tests.paths import ROOT
from tests.studies.comparison.test_comparison import GRAD_CAM, Net, detection_data
from tools.study_tables import main, read

RESULTS = ROOT / "docs" / "results"
RAW = [
    path
    for page in ("coco", "imagenet", "roar_kar")
    for path in sorted((RESULTS / page).glob("*.gz"))
]  # fmt: skip


def rows(text):
    """The tables' rows."""
    return [line for line in str(text).splitlines() if line.startswith("| ")]


def packed(path, text):
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def numbers():
    """Accuracies of three seeds, none like another."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.rand(3, generator=generator, dtype=torch.float64).tolist()


def test_a_comparison_of_explainers(tmp_path, capsys, monkeypatch):
    pairs = [("grad_cam", "random")]
    result = run_comparison(
        models={"one": Net(), "two": Net(1)}, data=detection_data(), explainers={"grad_cam": GRAD_CAM, "random": None},
        metrics={"tolerances": [0, 3], "steps": 5}, pairs=pairs, output=tmp_path / "study", progress=False,
    )  # fmt: skip
    result.save()
    path = packed(tmp_path / "all.csv.gz", (tmp_path / "study" / "results.csv").read_text())
    assert rows(read(path, pairs=pairs)) == rows(result)
    monkeypatch.setattr("sys.argv", ["study_tables", str(path), "--pairs", "grad_cam,random"])
    main()
    assert rows(capsys.readouterr().out) == rows(result)


HEAD = "network,explainer,image,label,target,seconds,passes,ebpg"


def test_files_of_one_comparison_are_put_together(tmp_path):
    lines = [
        f"net,{name},{image}.jpg,cat,0,0.1,1,{score}"
        for name, scores in (("a", (10, 30)), ("b", (20, 60)))
        for image, score in enumerate(scores)
    ]
    whole = packed(tmp_path / "whole.csv.gz", "\n".join([HEAD, *lines]))
    parts = [packed(tmp_path / f"{place}.csv.gz", "\n".join([HEAD, *lines[place : place + 2]])) for place in (0, 2)]
    result = read(*parts, pairs=[("b", "a")])
    assert str(result) == str(read(whole, pairs=[("b", "a")]))
    assert result.differences().values["net"]["b − a"]["ebpg"].value == 20
    with pytest.raises(ValueError, match=r"Got pairs of c\. Allowed are a, b"):
        read(whole, pairs=[("a", "c")])
    other = packed(tmp_path / "other.csv.gz", "\n".join([HEAD, *(line.replace("cat", "dog") for line in lines[2:])]))
    with pytest.raises(ValueError, match="on net with other images"):
        read(parts[0], other)


def test_roar_and_kar(tmp_path, numbers):
    result = RoarKarResult(
        "small CNN", ("roar", "kar"), (0.1, 0.5), (0, 1, 2),
        {name: {mode: {share: numbers() for share in (0.1, 0.5)} for mode in ("roar", "kar")}
         for name in ("random", "smoe", "std")},
        numbers(), reference="std",
    )  # fmt: skip
    result.save(tmp_path)
    assert rows(read(packed(tmp_path / "raw.json.gz", (tmp_path / "results.json").read_text()))) == rows(result)


def test_masks_at_one_scale(tmp_path, numbers):
    result = LayerMaskingResult(
        "small CNN", ("0", "3"), (0, 1, 2),
        {name: {mode: [numbers(), numbers()] for mode in ("kar", "roar")} for name in ("random", "smoe_scale", "std")},
        numbers(),
    )  # fmt: skip
    result.save(tmp_path)
    path = packed(tmp_path / "raw.json.gz", (tmp_path / "layer_masking_results.json").read_text())
    assert rows(read(path)) == rows(result)


def test_another_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds runs\. Allowed are"):
        read(packed(tmp_path / "raw.json.gz", '{"runs": {}}'))


@pytest.mark.parametrize("path", RAW, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_pages_say_what_the_raw_results_do(path):
    page = (RESULTS / f"{path.parent.name}.md").read_text()
    ends = [match.start() for match in re.finditer(re.escape(f"{path.parent.name}/{path.name}"), page)]
    assert ends, f"{path.parent.name}.md does not name {path.name}"
    start = page.rindex("\n## ", 0, ends[0])
    after = page.find("\n## ", ends[0])
    section = [row for row in rows(page[start : after if after > 0 else None]) if "[" in row]
    assert len(section) > 4
    pairs = re.findall(r"^\| (\w+) − (\w+) \|", "\n".join(section), re.MULTILINE)
    printed = set(rows(read(path, pairs=list(dict.fromkeys(pairs)))))
    assert [row for row in section if row not in printed] == []
