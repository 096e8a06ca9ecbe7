"""Layer-masking studies of several data sets in one: averages, ranks, what does not fit together, files."""

from __future__ import annotations

import csv
import dataclasses
import json
import math

import pytest
import torch

from lightning_saliency.studies import MergedLayerMasking, merge_layer_masking
from lightning_saliency.studies.engine.files import as_json
from lightning_saliency.studies.layer_masking.results import LayerMaskingResult
from lightning_saliency.studies.layer_masking.stored import read_result
from lightning_saliency.studies.retraining.scores import quartile_shares
from tools.study_tables import read

FILES = {
    "merged.html",
    *(f"merged_{name}" for name in ("table.md", "accuracies.csv", "scores.csv", "results.json")),
    *(f"merged_{name}.png" for name in ("difference", "information")),
}


def made_up(seed, statistics=("smoe_scale", "std", "mean"), scales=("stage1", "stage2"), seeds=(0, 1), **fields):
    """The result of a study whose accuracies are random numbers."""
    generator = torch.Generator().manual_seed(seed)

    def numbers():
        return (0.05 + 0.9 * torch.rand(len(seeds), generator=generator, dtype=torch.float64)).tolist()

    accuracies = {
        name: {mode: [numbers() for _ in scales] for mode in ("kar", "roar")} for name in ("random", *statistics)
    }
    return LayerMaskingResult("small CNN", tuple(scales), tuple(seeds), accuracies, numbers(), **fields)


@pytest.fixture
def merged():
    return MergedLayerMasking({"digits": made_up(0), "letters": made_up(1)})


def test_the_average_is_that_of_the_data_sets_seed_by_seed(merged):
    for score in ("difference", "information"):
        per_seed = [
            sum(result.seed_scores("std")[score][seed] for result in merged.results.values()) / 2 for seed in (0, 1)
        ]
        found = merged.average("std", score)
        assert found.value == pytest.approx(sum(per_seed) / 2)
        # Student's t of two seeds: the quantile 12.706 of one degree of freedom, and half their distance.
        assert found.high - found.value == pytest.approx(12.7062 * abs(per_seed[0] - per_seed[1]) / 2, rel=1e-4)
    row = merged.table().values[""]["std"]
    assert row["difference"] == merged.average("std")
    assert row["difference of letters"] == merged.results["letters"].score("std")
    values = [each["difference"].value for each in merged.table().values[""].values()]
    assert values == sorted(values, reverse=True)


def test_ranks_are_those_over_all_conditions(merged):
    for score in ("difference", "information"):
        pooled = {
            name: [
                value for result in merged.results.values() for row in result.scale_scores(name, score) for value in row
            ]
            for name in merged.statistics
        }
        assert all(len(values) == 2 * 2 * 2 for values in pooled.values())
        expected = quartile_shares(pooled)
        for name, shares in merged.quartiles(score).items():
            assert shares == pytest.approx(expected[name])
    assert "2 data sets × 2 scales, each seed by itself" in merged.quartile_table().caption


def test_a_data_set_with_more_seeds_counts_no_more():
    one, three = made_up(0, seeds=(0,)), made_up(1, seeds=(0, 1, 2))
    merged = MergedLayerMasking({"one": one, "three": three})
    shares = [result.quartiles()["std"] for result in (one, three)]
    assert merged.quartiles()["std"] == pytest.approx([sum(both) / 2 for both in zip(*shares, strict=True)])
    found = merged.average("std")
    assert found.value == pytest.approx((one.score("std").value + three.score("std").value) / 2)
    assert found.count == 1
    assert "one 1, three 3" in merged.table().caption
    assert merged.notices() == ["Too few seeds for intervals: 1. Differences may be chance; run two seeds or more."]


def test_bars_are_averages_by_scale(merged):
    for place in range(2):
        values = [
            row[place] for result in merged.results.values() for row in result.scale_scores("mean", "information")
        ]
        assert merged.bars("information")["mean"][place].value == pytest.approx(sum(values) / 4)


def test_a_score_that_is_not_finite_has_no_average(merged):
    digits = merged.results["digits"]
    accuracies = {**digits.accuracies, "std": {**digits.accuracies["std"], "kar": [[0.0, 0.5], [0.5, 0.5]]}}
    endless = dataclasses.replace(digits, accuracies=accuracies)
    found = MergedLayerMasking({**merged.results, "digits": endless})
    assert found.average("std", "information") is None
    row = found.table().values[""]["std"]
    assert set(row) == {"difference", "difference of digits", "difference of letters", "information of letters"}
    first, second = found.bars("information")["std"]
    assert math.isnan(first.value)
    assert math.isfinite(second.value)


def test_the_confidence_is_the_same_for_all(merged):
    wide = MergedLayerMasking({**merged.results, "digits": dataclasses.replace(made_up(0), confidence=0.5)})
    assert wide.table() == merged.table()
    narrow = MergedLayerMasking(merged.results, confidence=0.5).table().values[""]["std"]
    for key in ("difference", "difference of digits"):
        assert narrow[key].high < merged.table().values[""]["std"][key].high


def test_the_order_of_the_statistics_may_differ():
    other = made_up(1)
    turned = dataclasses.replace(other, accuracies=dict(reversed(list(other.accuracies.items()))))
    merged = MergedLayerMasking({"digits": made_up(0), "letters": turned})
    assert merged.statistics == ("smoe_scale", "std", "mean")
    straight = MergedLayerMasking({"digits": made_up(0), "letters": other})
    assert merged.table() == straight.table()
    assert merged.quartiles() == straight.quartiles()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            made_up(1, statistics=("smoe_scale", "max")),
            r"Got the statistics smoe_scale, std, mean of digits, and smoe_scale, max of letters\. Allowed are",
        ),
        (made_up(1, scales=("stage1",)), r"Got 2 scales of digits and 1 of letters\. Allowed is the same number"),
    ],
)
def test_studies_that_do_not_fit_together_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        MergedLayerMasking({"digits": made_up(0), "letters": other})


def test_one_study_is_refused():
    with pytest.raises(ValueError, match=r"Got 1 data set\. Allowed are the studies of two and more"):
        MergedLayerMasking({"digits": made_up(0)})


def test_notices_name_the_data_set_and_what_was_not_run_alike():
    facts = (("network", "small CNN"), ("data", "Digits"), ("KAR lets through", "2.5 %"))
    digits = dataclasses.replace(made_up(0, facts=facts, classes=10), unmasked=[0.1, 0.1])
    letters = made_up(1, facts=(facts[0], ("data", "Letters"), ("KAR lets through", "5 %")))
    merged = MergedLayerMasking({"digits": digits, "letters": letters})
    chance, alike = merged.notices()
    assert chance.startswith("small CNN on digits is at chance: 10.0 % right")
    assert alike.startswith("The studies differ in KAR lets through;")
    assert merged.facts()[2:] == [
        ("network", "small CNN"),
        ("data, digits", "Digits"),
        ("data, letters", "Letters"),
        ("KAR lets through, digits", "2.5 %"),
        ("KAR lets through, letters", "5 %"),
    ]


@pytest.fixture
def runs(tmp_path):
    """The output folders of two finished studies."""
    for seed, name in enumerate(("digits", "letters")):
        made_up(seed, facts=(("network", "small CNN"),), classes=10).save(tmp_path / name)
    return [tmp_path / "digits", tmp_path / "letters"]


def test_what_a_study_stores_is_read_again(runs):
    assert read_result(runs[1]) == made_up(1, facts=(("network", "small CNN"),), classes=10)


def test_results_of_earlier_versions_are_read(runs):
    file = runs[0] / "layer_masking_results.json"
    told = json.loads(file.read_text())
    del told["classes"], told["facts"]
    file.write_text(as_json(told))
    assert read_result(runs[0]) == made_up(0)


def test_finished_studies_are_merged_and_written(runs, merged, tmp_path):
    found = merge_layer_masking(runs)
    assert found.table() == merged.table()
    written = found.save(tmp_path / "out")
    assert written[0].name == "merged.html"
    assert {path.name for path in written} == FILES
    assert (tmp_path / "out" / "merged_table.md").read_text() == str(found)
    told = json.loads((tmp_path / "out" / "merged_results.json").read_text())
    assert list(told["data_sets"]) == ["digits", "letters"]
    assert told["quartiles"]["information"] == {
        name: list(shares) for name, shares in found.quartiles("information").items()
    }
    with (tmp_path / "out" / "merged_accuracies.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 2 * 4 * 2 * 2 * 2
    (cell,) = [
        line
        for line in cells
        if [*line.values()][:-1] == ["letters", "std", "kar", "2", "stage2", "1"]
    ]  # fmt: skip
    assert float(cell["accuracy"]) == found.results["letters"].accuracies["std"]["kar"][1][1]
    with (tmp_path / "out" / "merged_scores.csv").open(newline="") as file:
        scores = {(line["score"], line["data set"], line["statistic"]): line["value"] for line in csv.DictReader(file)}
    assert len(scores) == 2 * 3 * 3
    assert float(scores["information", "average", "mean"]) == found.average("mean", "information").value
    page = (tmp_path / "out" / "merged.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for part in ("digits: accuracy in %", "letters: accuracy in %", "average", "accuracy without masks"):
        assert part in page


def test_the_tables_are_made_anew_from_the_raw_results(runs, tmp_path):
    found = merge_layer_masking(runs, ["one", "two"], confidence=0.9)
    found.save(tmp_path / "out")
    assert str(read(tmp_path / "out" / "merged_results.json")) == str(found)


def test_files_of_a_study_stay_as_they_are(runs):
    before = {path.name: path.read_bytes() for path in runs[0].iterdir() if not path.name.startswith(".")}
    merge_layer_masking(runs).save(runs[0])
    after = {path.name: path.read_bytes() for path in runs[0].iterdir() if not path.name.startswith(".")}
    assert set(after) - set(before) == FILES
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], r"Got 1 name for 2 folders: one\. Allowed is one for each"),
        (["one", "one"], r"Got the name 'one' twice\. Allowed is a name of its own"),
    ],
)
def test_names_that_do_not_fit_are_refused(runs, names, message):
    with pytest.raises(ValueError, match=message):
        merge_layer_masking(runs, names)


def test_folders_of_one_name_need_names(runs, tmp_path):
    again = tmp_path / "again" / "digits"
    made_up(2).save(again)
    with pytest.raises(ValueError, match="Got the name 'digits' twice"):
        merge_layer_masking([runs[0], again])
    assert list(merge_layer_masking([runs[0], again], ["a", "b"]).results) == ["a", "b"]
    with pytest.raises(ValueError, match=r"Got the study .* twice"):
        merge_layer_masking([runs[0], again / ".." / ".." / "digits"], ["a", "b"])


def test_a_folder_without_results_is_refused(runs, tmp_path):
    (tmp_path / "begun" / "cells").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"begun, which holds no layer_masking_results\.json\. Allowed are"):
        merge_layer_masking([*runs, tmp_path / "begun"])
    with pytest.raises(FileNotFoundError, match=r"nowhere, where there is no folder\. Allowed are"):
        merge_layer_masking([*runs, tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["{", "[]", '{"network": "small CNN"}'])
def test_damaged_results_are_named(runs, text):
    (runs[1] / "layer_masking_results.json").write_text(text)
    with pytest.raises(ValueError, match=r"letters.layer_masking_results\.json, which cannot be read"):
        merge_layer_masking(runs)
