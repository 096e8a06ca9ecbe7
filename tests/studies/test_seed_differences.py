"""One method against each of the others, seed by seed: literally, in every file, and of two studies in one folder."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from lightning_saliency.studies.layer_masking.run import LayerMaskingResult
from lightning_saliency.studies.roar_kar.run import RoarKarResult

FRACTIONS = (0.1, 0.3, 0.5)
SCALES = ("a", "b", "c")


def roar_kar(names=("random", "std", "smoe"), seeds=4, modes=("roar", "kar"), **options):
    generator = np.random.default_rng(0)
    accuracies = {
        name: {
            mode: {fraction: generator.uniform(0.2, 0.8, seeds).tolist() for fraction in FRACTIONS} for mode in modes
        }
        for name in names
    }
    return RoarKarResult(
        "net", modes, FRACTIONS, tuple(range(seeds)), accuracies, [0.9] * seeds, confidence=0.9, **options
    )


def layers(names=("std", "smoe_scale", "mean"), seeds=4, **options):
    generator = np.random.default_rng(1)
    accuracies = {
        name: {mode: generator.uniform(0.2, 0.8, (len(SCALES), seeds)).tolist() for mode in ("kar", "roar")}
        for name in ("random", *names)
    }
    return LayerMaskingResult("net", SCALES, tuple(range(seeds)), accuracies, [0.9] * seeds, confidence=0.9, **options)


def literal_sums(result, name, seed):
    """KAR, −ROAR and SUM, "subtracting the sum of the ROAR scores from the sum of the KAR scores" (Sec. 3.2)."""
    kar = roar = 0.0
    for fraction in FRACTIONS:
        kar += result.accuracies[name]["kar"][fraction][seed]
        roar += result.accuracies[name]["roar"][fraction][seed]
    return {"kar": kar, "roar": -roar, "sum": kar - roar}


def literal_scores(result, name, seed):
    """Eq. 8 and 9 of the SMOE paper, the latter with the natural logarithm."""
    difference = information = 0.0
    for scale in range(len(SCALES)):
        kappa, rho = (result.accuracies[name][mode][scale][seed] for mode in ("kar", "roar"))
        z_kar, z_roar = (result.accuracies["random"][mode][scale][seed] for mode in ("kar", "roar"))
        difference += (z_roar - rho) + (kappa - z_kar)
        information += -rho * math.log(rho / z_roar) - z_kar * math.log(z_kar / kappa)
    return {"difference": difference, "information": information}


@pytest.mark.parametrize(
    ("result", "literal", "reference", "others"),
    [
        (roar_kar(), literal_sums, "std", ("random", "smoe")),
        (roar_kar(reference="random"), literal_sums, "random", ("std", "smoe")),
        (roar_kar(seeds=2), literal_sums, "std", ("random", "smoe")),
        (layers(), literal_scores, "smoe_scale", ("std", "mean")),
        (layers(("std", "mean")), literal_scores, "std", ("mean",)),
        (layers(reference="mean"), literal_scores, "mean", ("std", "smoe_scale")),
    ],
)
def test_differences_are_paired_by_seed(result, literal, reference, others):
    assert result.reference == reference
    rows = result.differences().values["net"]
    assert list(rows) == [f"{reference} − {other}" for other in others]
    stored = json.loads(json.dumps(result.as_dict()))
    assert (stored["reference"], list(stored["differences"])) == (reference, list(others))
    for other in others:
        own, theirs = (
            [literal(result, name, seed) for seed in range(len(result.seeds))] for name in (reference, other)
        )
        found = rows[f"{reference} − {other}"]
        assert list(found) == list(own[0])
        for key, estimate in found.items():
            first, second = [row[key] for row in own], [row[key] for row in theirs]
            interval = scipy.stats.ttest_rel(first, second).confidence_interval(0.9)
            assert estimate.value == pytest.approx(np.mean(first) - np.mean(second))
            assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
            assert estimate.count == len(result.seeds)
            assert stored["differences"][other][key] == vars(estimate)


def test_what_a_seed_does_to_both_cancels():
    result = roar_kar(("random", "smoe"))
    shifted = {
        mode: {fraction: [value - 0.1 for value in values] for fraction, values in fractions.items()}
        for mode, fractions in result.accuracies["smoe"].items()
    }
    result = replace(result, accuracies={**result.accuracies, "std": shifted}, reference="smoe")
    found = result.differences().values["net"]["smoe − std"]
    assert (found["kar"].low, found["kar"].high) == pytest.approx((0.3, 0.3))
    assert (found["roar"].low, found["roar"].high) == pytest.approx((-0.3, -0.3))
    assert (found["sum"].low, found["sum"].high) == pytest.approx((0, 0), abs=1e-9)
    assert result.combined("smoe").kar.high - result.combined("smoe").kar.low > 0.1
    # The same three scores against the random maps as in the main table.
    assert vars(result.differences().values["net"]["smoe − random"]["sum"]) == pytest.approx(
        vars(result.combined("smoe").over_random)
    )


def test_of_one_mode_there_is_one_difference():
    for mode, sign in (("kar", 1), ("roar", -1)):
        result = roar_kar(modes=(mode,))
        found = result.differences().values["net"]["std − smoe"]
        assert list(found) == [mode]
        sums = [
            sum(sum(result.accuracies[name][mode][fraction]) for fraction in FRACTIONS) / 4 for name in ("std", "smoe")
        ]
        assert found[mode].value == pytest.approx(sign * (sums[0] - sums[1]))


def test_what_is_not_finite_is_a_dash():
    result = layers()
    kar = [list(values) for values in result.accuracies["mean"]["kar"]]
    kar[1][2] = 0.0
    result = replace(
        result, accuracies={**result.accuracies, "mean": {**result.accuracies["mean"], "kar": kar}}, facts=()
    )
    rows = result.differences().values["net"]
    assert set(rows["smoe_scale − mean"]) == {"difference"}
    assert set(rows["smoe_scale − std"]) == {"difference", "information"}
    assert re.search(r"\| smoe_scale − mean \| \S+ \[.+\] \| – \|", result.differences().markdown())
    lines = result._differences().csv("statistic").splitlines()
    assert [line for line in lines if line.startswith("smoe_scale,mean,information")] == [
        "smoe_scale,mean,information,,,,"
    ]
    # Neither does one of the reference tell anything, and no score less itself is made up.
    against = replace(result, reference="mean").differences().values["net"]
    assert [set(row) for row in against.values()] == [{"difference"}, {"difference"}]


@pytest.mark.parametrize("result", [roar_kar(), layers()])
def test_every_file_has_the_differences(result, tmp_path):
    prefix = "" if isinstance(result, RoarKarResult) else "layer_masking_"
    kind = "statistic" if prefix else "explainer"
    result.save(tmp_path)
    caption = f"{result.reference} minus the other, seed by seed: above 0, {result.reference} is better."
    page = (tmp_path / "report.html").read_text()
    assert f"<h2>Against {result.reference}</h2>" in page
    assert caption in page
    assert caption in (tmp_path / f"{prefix}table.md").read_text()
    with (tmp_path / f"{prefix}differences.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = result.differences().values["net"]
    assert len(lines) == sum(len(row) for row in rows.values())
    for line in lines:
        estimate = rows[f"{line['reference']} − {line[kind]}"][line["score"]]
        assert [float(line[key]) for key in ("value", "low", "high")] == [estimate.value, estimate.low, estimate.high]
        assert line["seeds"] == "4"
    stored = json.loads((tmp_path / f"{prefix}results.json").read_text())
    assert stored["differences"] == result.as_dict()["differences"]


@pytest.mark.parametrize("result", [roar_kar(seeds=1), layers(seeds=1)])
def test_one_seed_gives_values_without_intervals(result, tmp_path):
    files = {path.name: path for path in result.save(tmp_path)}
    for name, path in files.items():
        if path.suffix == ".csv" and "accuracies" not in name:
            lines = list(csv.DictReader(path.read_text().splitlines()))
            assert lines
            assert {(line["low"], line["high"], line["seeds"]) for line in lines} == {("", "", "1")}
            assert all(math.isfinite(float(line["value"])) for line in lines)
        elif path.suffix == ".json":
            stored = json.loads(path.read_text())
            for rows in (stored["scores"], stored["differences"]):
                estimates = [estimate for row in rows.values() for estimate in row.values()]
                assert {(one["low"], one["high"], one["count"]) for one in estimates} == {(None, None, 1)}
        elif path.suffix in (".html", ".md"):
            text = re.sub(r"base64,[^\"]+", "", path.read_text())
            assert "One seed: no intervals." in text
            assert not re.search(r"\binf\b|\bnan\b|<span class=\"interval\">|\d \[", text)


def test_a_single_method_is_compared_with_none(tmp_path):
    for result, tables in ((roar_kar(("random",)), 2), (layers(("std",)), 3)):
        assert len(result.tables()) == tables
        assert not any(section.heading.startswith("Against") for section in result.sections())
        assert result.as_dict()["differences"] == {}
        assert result.differences().markdown() == "Nothing to compare.\n"
        result.save(tmp_path)
    assert roar_kar(("random",)).reference is None
    assert (tmp_path / "differences.csv").read_text() == "reference,explainer,score,value,low,high,seeds\n"


def test_a_reference_that_was_not_studied_is_said():
    for result in (roar_kar(), layers()):
        with pytest.raises(ValueError, match=r"reference='cam'\. Allowed are .*std"):
            replace(result, reference="cam")
    with pytest.raises(ValueError, match="reference='random'"):
        layers(reference="random")


def test_both_studies_can_be_saved_into_one_folder(tmp_path):
    results = (roar_kar(folder=tmp_path), layers(folder=tmp_path))
    written = [result.save() for result in results]
    assert len({*written[0], *written[1]}) == len(written[0]) + len(written[1])
    assert {path.name for path in written[0]} == {
        "report.html", "table.md", "accuracies.csv", "scores.csv", "differences.csv", "results.json", "curves.png",
    }  # fmt: skip
    assert all(path.name.startswith("layer_masking") for path in written[1])
    assert written[1][0] == tmp_path / "layer_masking.html"
    before = {path: path.read_bytes() for path in (*written[0], *written[1])}
    for result in reversed(results):
        result.save()
    assert {path: path.read_bytes() for path in before} == before
    assert "ROAR and KAR" in before[tmp_path / "report.html"].decode()
    # The other way round, too, neither page takes the other's place.
    written = [result.save(tmp_path / "other") for result in reversed(results)]
    assert [paths[0].name for paths in written] == ["report.html", "roar_kar.html"]
    assert "Statistics at each scale" in written[0][0].read_text()
    assert [result.save(tmp_path / "other")[0].name for result in results] == ["roar_kar.html", "report.html"]
    assert json.loads(before[tmp_path / "layer_masking_results.json"])["scales"] == list(SCALES)
