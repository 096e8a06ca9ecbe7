"""Adebayo's sanity check: what is randomised, what is left alone, and what the verdicts say."""

import copy
import csv
import json
import os
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

from benchmarks.sanity_calibration import Mixture
from lightning_saliency.cli import sanity_check as command
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.explainers import Explainer, build_explainer
from lightning_saliency.networks import build_network
from lightning_saliency.randomness import randomize
from lightning_saliency.reports.notices import chance_notices, image_notices
from lightning_saliency.studies import CellError, StaleResultsError, run_sanity_check
from lightning_saliency.studies.estimates import bootstrap_excess, bootstrap_rows
from lightning_saliency.studies.sanity_check import cells as check_cells
from lightning_saliency.studies.sanity_check.checks import ExplainerCheck, SimilarityStep
from lightning_saliency.studies.sanity_check.randomization import layers_from_top
from lightning_saliency.studies.sanity_check.stored import result_of
from tests.networks import ConvNet, TokenTransformer

EIGHT = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(7))
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def sanity_check(model, images, explainers, **options):
    return run_sanity_check(model=model, data=images, explainers=explainers, progress=False, **options)


def interval(estimate):
    return estimate.value, estimate.low, estimate.high


class WeightSum(Explainer):
    """A map made of the weights alone, and a record of the networks it was asked about."""

    def __init__(self, model, seen=None):
        super().__init__(model)
        self.seen = seen

    def _explain(self, images, targets):
        if self.seen is not None:
            self.seen.append((copy.deepcopy(self.model.state_dict()), targets.tolist()))
        weights = torch.cat([parameter.flatten() for parameter in self.model.parameters()])
        return weights[: 32 * 32].reshape(1, 32, 32).expand(len(images), -1, -1)


class AllWeights(Mixture):
    """Noise that the weights make, for commands."""

    def __init__(self, model):
        super().__init__(model, share=1.0)


class Zero(Explainer):
    """Nothing at all, or nothing once the top layer is random."""

    def __init__(self, model, trained=None):
        super().__init__(model)
        self.trained = trained

    def _explain(self, images, targets):
        if self.trained is not None and torch.equal(self.trained, self.model.linear.weight):
            return images.mean(1)
        return images.new_zeros(len(images), 32, 32)


class Noisy(Explainer):
    """The image itself; with random weights, or always, disturbed by noise that the weights make."""

    def __init__(self, model, trained=None):
        super().__init__(model)
        self.trained = trained

    def _explain(self, images, targets):
        weight = self.model.linear.weight
        if self.trained is not None and torch.equal(self.trained, weight):
            return images.mean(1)
        generator = torch.Generator().manual_seed(int(1e5 * weight.abs().sum()))
        # The same for an image whatever chunk it is in.
        noise = torch.rand(images.shape[-2:], generator=generator).expand(len(images), -1, -1)
        return images.mean(1) + (0.6 if self.trained is not None else 0.1) * noise


def trained(seed=3):
    """A network whose every parameter and statistic differs from a fresh one's."""
    torch.manual_seed(seed)
    network = ConvNet()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return network


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def floating(network, module):
    return {
        f"{module}.{name}"
        for name, value in network.get_submodule(module).state_dict().items()
        if value.is_floating_point()
    }


def test_layers_come_in_the_order_of_the_calls_not_of_registration():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.body = nn.Conv2d(3, 4, 3)
            self.activation = nn.ReLU()

        def forward(self, x):
            return self.head(self.activation(self.body(x)).mean((2, 3)))

    assert [layers.name for layers in layers_from_top(Reversed(), IMAGES)] == ["head", "body"]


@pytest.mark.parametrize(
    ("max_steps", "names"),
    [
        (20, ["linear", "block3.1", "block3.0", "block2.1", "block2.0", "block1.1", "block1.0"]),
        (6, ["linear", "block3", "block2", "block1"]),
        (3, ["linear … block3.1", "block3.0 … block2.1", "block2.0 … block1.0"]),
        (1, ["linear … block1.0"]),
    ],
)
def test_many_layers_are_grouped(max_steps, names):
    network = ConvNet()
    if max_steps in (3, 1):
        # Fewer steps than blocks: neighbours.
        names = [layers.name for layers in layers_from_top(network, IMAGES, max_steps)]
        assert len(names) == max_steps
        assert names[0].startswith("linear")
    groups = layers_from_top(network, IMAGES, max_steps)
    assert [group.name for group in groups] == names
    modules = [module for group in groups for module in group.modules]
    assert modules == ["linear", "block3.1", "block3.0", "block2.1", "block2.0", "block1.1", "block1.0"]


def test_a_flat_sequence_is_shared_out_evenly():
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(10)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sizes = [len(group.modules) for group in layers_from_top(network, IMAGES, 4)]
    assert sum(sizes) == 10
    assert max(sizes) - min(sizes) <= 1


def test_every_parameter_of_a_transformer_is_in_one_layer_and_changes():
    network = TokenTransformer()
    groups = layers_from_top(network, IMAGES, 8)
    modules = [module for group in groups for module in group.modules]
    assert len(modules) == len(set(modules))
    assert groups[0].name == "head"
    assert "blocks.0.attention.out_proj" in modules  # never called as a module
    before = copy.deepcopy(network.state_dict())
    randomize(network, modules, seed=1)
    constant = {name for name, value in before.items() if bool((value == value.flatten()[0]).all())}
    assert changed(before, network.state_dict()) | constant == set(before)
    assert not any(name.endswith("weight") and "norm" not in name for name in constant)


def test_weights_depend_on_seed_and_path_only_and_the_generator_is_left():
    one, two, other = trained(), trained(4), trained()
    state = torch.random.get_rng_state()
    randomize(one, ["linear", "block2.0"], seed=5)
    randomize(two, ["block2.0"], seed=5)
    randomize(other, ["block2.0"], seed=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.block2[0].weight, two.block2[0].weight)
    assert not torch.equal(one.block2[0].weight, other.block2[0].weight)


def test_batch_norm_is_taken_back_to_its_start():
    network = trained()
    randomize(network, ["block1.1"], seed=0)
    norm = network.block1[1]
    for values, expected in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
        assert bool((values == expected).all())


def test_weights_that_reset_parameters_misses_are_redrawn():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = layer.weight.detach().clone()
    modules = [module for group in layers_from_top(network, IMAGES) for module in group.modules]
    randomize(network, modules, seed=0)
    assert abs(np.corrcoef(before.flatten(), layer.weight.detach().flatten())[0, 1]) < 0.4


def test_each_step_changes_exactly_its_layers():
    network = trained()
    seen = []
    result = sanity_check(
        network, IMAGES, {"sum": partial(WeightSum, seen=seen)}, random_networks=3, batch_size=3, max_steps=6
    )
    groups = layers_from_top(network, IMAGES, 6)
    assert result.layers == tuple(group.name for group in groups)
    count = len(groups)
    assert len(seen) == 2 * count + 2
    states = [state for state, _ in seen]
    original = network.state_dict()
    assert changed(original, states[0]) == set()
    of_group = [set().union(*(floating(network, module) for module in group.modules)) for group in groups]
    for step in range(count):
        assert changed(states[step], states[step + 1]) == of_group[step]
        assert changed(original, states[step + 1]) == set().union(*of_group[: step + 1])
    for layer, state in enumerate(states[count + 1 : 2 * count], start=1):
        assert changed(original, state) == of_group[layer]
        # The same random weights as in the cascade.
        assert all(torch.equal(state[name], states[layer + 1][name]) for name in of_group[layer])
    weights = {name for name in set().union(*of_group) if original[name].ndim > 1}
    networks = [states[count], *states[2 * count :]]
    for one, two in pairwise(networks):
        assert weights <= changed(one, two)
    # The classes that the original network predicts, throughout.
    predicted = network.eval()(IMAGES).argmax(1).tolist()
    assert all(targets == predicted for _, targets in seen)
    assert list(result.targets) == predicted


def test_the_network_is_left_as_it_was():
    network = trained().train()
    network.block2[1].eval()
    network.block1[0].weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    flags = [module.training for module in network.modules()]
    state = torch.random.get_rng_state()
    sanity_check(network, IMAGES, ["smoe", "grad_cam"], random_networks=2)
    assert changed(before, network.state_dict()) == set()
    assert [module.training for module in network.modules()] == flags
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_similarities_and_level_are_those_of_the_maps():
    network = trained()
    result = sanity_check(network, IMAGES, ["smoe"], random_networks=3, seed=11)
    check = result["smoe"]
    groups = layers_from_top(network, IMAGES)
    original = build_explainer("smoe", network)(IMAGES)
    for step, comparison in enumerate(check.cascading):
        other = copy.deepcopy(network)
        randomize(other, [module for group in groups[: step + 1] for module in group.modules], seed=11)
        maps = build_explainer("smoe", other)(IMAGES)
        expected = [stats.spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(original, maps, strict=True)]
        assert comparison.similarity["spearman"] == pytest.approx(expected, abs=1e-4)
        assert comparison.change == pytest.approx(float((maps - original).abs().max()), abs=1e-5)
    networks = []
    for seed in (11, 12, 13):
        other = copy.deepcopy(network)
        randomize(other, [module for group in groups for module in group.modules], seed=seed)
        networks.append(build_explainer("smoe", other)(IMAGES))

    def ranked(one, two):
        return pytest.approx(
            [stats.spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(one, two, strict=True)], abs=1e-4
        )

    assert [list(row) for row in check.random["spearman"]] == [ranked(original, maps) for maps in networks]
    a, b, c = networks
    assert [list(row) for row in check.level["spearman"]] == [ranked(a, b), ranked(a, c), ranked(b, c)]
    assert check.random["ssim"][0] == check.cascading[-1].similarity["ssim"]


def test_an_explainer_that_ignores_the_weights_is_found_out():
    result = sanity_check(trained(), IMAGES, ["smoe"], random_networks=2)
    edges = result["edges"]
    for step in (*edges.cascading, *edges.independent):
        for values in step.similarity.values():
            assert values == pytest.approx((1, 1, 1), abs=1e-5)
        assert step.change == 0
    assert edges.verdict().kind == "insensitive"
    assert "does not depend on the weights at all" in edges.verdict().line
    assert result["smoe"].verdict().kind != "insensitive"


def test_an_explainer_that_shows_the_weights_falls_to_the_level():
    verdict = sanity_check(trained(), EIGHT, {"sum": WeightSum}, random_networks=3)["sum"].verdict()
    assert verdict.kind == "fallen", verdict.line
    assert "has fallen to the random-weights level" in verdict.line


def test_constant_maps_are_counted_and_make_no_level():
    network = trained()
    build = partial(Zero, trained=network.linear.weight.detach().clone())
    result = sanity_check(network, EIGHT, {"zero": Zero, "vanishing": build}, random_networks=2)
    zero, vanishing = result["zero"], result["vanishing"]
    assert zero.verdict().kind == "undecided"
    assert zero.compared == ()
    assert (zero.cascading[0].constant, zero.level_constant, zero.level_maps) == (8, 16, 16)
    assert vanishing.compared == tuple(range(8))
    assert vanishing.cascading[-1].similarity["spearman"] == (0,) * 8
    assert vanishing.random_level("spearman") is None
    assert vanishing.verdict().kind == "fallen"
    assert "no map is left" in vanishing.verdict().line
    assert "8 of 8 maps are constant once all weights are random" in vanishing.verdict().line
    # Only where the linear layer is as trained is there a map.
    assert [step.constant for step in vanishing.independent] == [8, *[0] * (len(result.layers) - 1)]
    assert vanishing.level["ssim"] == ((None,) * 8,)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["checks"][1]["level"]["ssim"] == [[None] * 8]


def test_original_maps_that_random_ones_share_stay_above_the_level():
    network = trained()
    build = partial(Noisy, trained=network.linear.weight.detach().clone())
    verdict = sanity_check(network, EIGHT, {"noisy": build}, random_networks=4)["noisy"].verdict()
    assert verdict.kind == "above"
    assert verdict.line.startswith("stays above the random-weights level: Pearson by 0.")


def test_the_image_with_a_little_of_the_weights_does_not_pass():
    """Its maps are as alike as those of random networks are, and that is no praise."""
    verdict = sanity_check(trained(), EIGHT, {"image": Noisy}, random_networks=4)["image"].verdict()
    assert verdict.kind == "insensitive"
    assert verdict.line.startswith(
        "shows the image more than the weights: most of the map stays once all are random: P"
    )
    assert "the level itself is high in Pearson, Spearman, SSIM, HOG" in verdict.line


@pytest.mark.parametrize("image", ["edges", "few edges"])
def test_edges_pass_when_the_weights_decide_most_of_the_variance(image):
    shares = {0.0: "insensitive", 0.01: "insensitive", 0.2: "insensitive", 0.4: "insensitive", 0.6: "fallen"}
    explainers = {str(share): partial(Mixture, share=share, image=image) for share in (*shares, 1.0)}
    result = sanity_check(trained(), EIGHT, explainers, random_networks=3, max_steps=2)
    assert {name: result[name].verdict().kind for name in explainers} == {
        **{str(share): kind for share, kind in shares.items()},
        "1.0": "fallen",
    }
    # The weights' share of the variance is 1 less the correlation.
    expected = {share: 1 - share**2 / (share**2 + (1 - share) ** 2) for share in shares}
    found = {share: result[str(share)].fully_random("pearson").value for share in shares}
    assert found == pytest.approx(expected, abs=0.02)


def made_up(similarity, level, images=8, change=0.5):
    spread = np.linspace(-0.02, 0.02, images)
    values = {measure: tuple(similarity + spread) for measure in ("pearson", "spearman", "ssim", "hog")}
    random = {measure: (own,) * 3 for measure, own in values.items()}
    levels = {measure: tuple(tuple(level + sign * spread) for sign in (1, -1, 1)) for measure in values}
    step = SimilarityStep("fc", {measure: values[measure] for measure in ("spearman", "ssim", "hog")}, 0, change)
    return ExplainerCheck("x", 0, images, tuple(range(images)), (step,), (step,), random, levels, 0, images)


@pytest.mark.parametrize(
    ("similarity", "level", "kind"),
    [
        (0.2, 0.3, "fallen"),
        (0.31, 0.3, "fallen"),
        (0.3, 0.3, "fallen"),
        (0.6, 0.3, "above"),
        (0.48, 0.48, "fallen"),
        (0.5, 0.5, "undecided"),
        (0.52, 0.52, "insensitive"),
        (0.99, 0.99, "insensitive"),
        (0.6, 0.9, "insensitive"),
        # Random networks' maps are alike, the original one is unlike them: training has changed it.
        (0.2, 0.95, "fallen"),
    ],
)
def test_the_verdict_goes_by_the_intervals(similarity, level, kind):
    verdict = made_up(similarity, level).verdict()
    assert verdict.kind == kind
    if kind == "above":
        assert "Spearman by 0.30 (0.60 [0.59, 0.61], level 0.30 [0.29, 0.31])" in verdict.line
    if kind == "undecided":
        assert "Pearson 0.50 [0.49, 0.51] (level 0.50 [0.49, 0.51]), of which 0.5 at most would be" in verdict.line
        assert "; fallen: Spearman 0.50" in verdict.line


def with_pearson(similarity, level, measures):
    """Measures that say something else than Pearson's correlation."""
    check, other = made_up(*measures), made_up(similarity, level)
    check.random["pearson"], check.level["pearson"] = other.random["pearson"], other.level["pearson"]
    return check


def test_how_much_stays_is_told_by_correlation_alone():
    """Maps that are mostly zero are alike by SSIM, and faint noise turns the ranks of such maps."""
    assert with_pearson(0.1, 0.2, (0.66, 0.8)).verdict().kind == "fallen"
    assert with_pearson(0.99, 0.99, (0.14, 0.14)).verdict().kind == "insensitive"


def test_an_uncertain_level_leaves_no_room_for_more_than_the_similarity():
    check = made_up(0.02, 0.0)
    check.level.update(dict.fromkeys(check.level, ((-0.9,) * 8, (0.9,) * 8, (0.0,) * 8)))
    excess = bootstrap_excess(check.random["pearson"], check.level["pearson"], check.seed)
    assert excess.high > 0.5
    assert check.verdict().kind == "fallen"


def test_intervals_that_are_too_wide_decide_nothing():
    check = made_up(0.2, 0.3)
    spread = np.linspace(-1.6, 1.6, 8)
    check.random["ssim"] = (tuple(0.2 + spread),) * 3
    verdict = check.verdict()
    assert verdict.kind == "undecided"
    excess = bootstrap_excess(check.random["ssim"], check.level["ssim"], check.seed)
    kept = excess.high / (1 - 0.3)
    assert kept > 0.5
    assert f"which may keep {kept:.2f} of the way from the level to 1, where 0.5 is fallen" in verdict.line
    assert verdict.line.startswith("undecided: the intervals leave it open: SSIM 0.20 [")
    assert "; fallen: Pearson 0.20" in verdict.line
    # The same spread over more images is told apart.
    assert kept > bootstrap_excess((tuple(0.2 + np.tile(spread, 40)),) * 3, ((0.3,) * 320,) * 3).high / 0.7


@pytest.mark.parametrize("similarity", [0.2, 0.9])
def test_too_few_images_decide_nothing(similarity):
    verdict = made_up(similarity, 0.3, images=7).verdict()
    assert verdict.kind == "undecided"
    assert verdict.line.startswith("undecided: 7 images can be compared, 8 or more are needed: Pearson")
    assert made_up(similarity, 0.3, images=4, change=0.0).verdict().kind == "insensitive"


def test_maps_of_one_random_network_alone_decide_nothing():
    check = made_up(0.2, 0.3)
    check.level.update(dict.fromkeys(check.level, ((None,) * 8,) * 3))
    assert check.verdict().kind == "undecided"
    assert "no two random networks have a map" in check.verdict().line


def test_the_excess_is_that_of_the_same_images_and_networks():
    """What an image does to all its similarities is in neither end of the interval, against an own loop."""
    generator = np.random.default_rng(0)
    image, network = generator.normal(0, 1, 12), generator.normal(0, 0.1, 3)
    own = 0.1 + image + network[:, None]
    pairs = np.stack([image + (network[a] + network[b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))])
    excess = bootstrap_excess(own, pairs, seed=5)
    assert excess.value == pytest.approx(0.1)
    assert (excess.low, excess.high) == pytest.approx((0.1, 0.1), abs=0.1)
    found, draws = [], np.random.default_rng(5)
    images, networks = draws.integers(0, 12, (2000, 12)), draws.integers(0, 3, (2000, 3))
    for drawn, nets in zip(images, networks, strict=True):
        both = [pairs[a + b - 1][drawn] for a, b in combinations(sorted(nets), 2) if a != b]
        if both:
            found.append(own[nets][:, drawn].mean() - np.mean(both))
    assert (excess.low, excess.high) == pytest.approx(tuple(np.percentile(found, (2.5, 97.5))), abs=1e-9)
    with pytest.raises(ValueError, match="none of their pairs"):
        bootstrap_excess([[0.5], [0.5]], [[None]])


def test_one_similarity_above_is_enough():
    check = made_up(0.2, 0.3)
    check.random["ssim"] = (tuple(0.5 for _ in range(8)),) * 3
    line = check.verdict().line
    assert check.verdict().kind == "above"
    assert "SSIM by 0.20" in line
    assert "fallen: Pearson" in line


def test_bootstrap_interval_is_close_to_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.1, 60)
    mean, low, high = interval(bootstrap_rows(values))
    half = 1.96 * values.std() / 60**0.5
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)
    assert interval(bootstrap_rows(values)) == (mean, low, high)
    assert interval(bootstrap_rows([0.25])) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no value"):
        bootstrap_rows([None])


def test_the_interval_of_networks_that_differ_is_as_wide_as_their_difference():
    rows = ((0.1, 0.1, 0.1), (0.5, 0.5, None))
    mean, low, high = interval(bootstrap_rows(rows))
    assert mean == pytest.approx(1.3 / 5)
    assert (low, high) == pytest.approx((0.1, 0.5))


def test_the_same_seed_gives_the_same_result_and_json_keeps_it():
    first, again, other = (
        sanity_check(trained(), IMAGES, ["smoe", "grad_cam"], random_networks=2, seed=seed) for seed in (1, 1, 2)
    )
    assert first.checks == again.checks
    assert first.checks != other.checks
    kept = json.loads(json.dumps(first.as_dict(), allow_nan=False))["checks"][0]
    assert kept["random"]["ssim"] == [list(row) for row in first["smoe"].random["ssim"]]
    assert kept["verdict"]["line"] == first["smoe"].verdict().line
    assert result_of(json.loads(json.dumps(first.as_dict()))).checks == first.checks


def test_the_size_of_the_blocks_does_not_matter():
    one, three = (sanity_check(trained(), IMAGES, ["grad_cam"], random_networks=2, batch_size=size) for size in (1, 3))
    for a, b in zip(one["grad_cam"].cascading, three["grad_cam"].cascading, strict=True):
        for measure in a.similarity:
            assert a.similarity[measure] == pytest.approx(b.similarity[measure], abs=2e-3)
        assert a.change == pytest.approx(b.change, abs=2e-3)
        assert a.constant == b.constant
    assert one["grad_cam"].level_maps == three["grad_cam"].level_maps == 6


def test_results_are_kept_for_each_explainer_and_used_again(tmp_path, monkeypatch):
    made = []
    original = check_cells.explain_steps

    def counting(built, *arguments):
        made.append(type(built).__name__)
        return original(built, *arguments)

    monkeypatch.setattr(check_cells, "explain_steps", counting)
    check = partial(
        sanity_check, images=IMAGES, output=str(tmp_path), random_networks=2, pictures=2, max_steps=4, batch_size=3
    )
    first = check(trained(), explainers=["smoe"])
    second = check(trained(), explainers=["grad_cam", "smoe"])
    assert made == ["SMOE", "EdgeDetector", "GradCAM"]
    assert second["smoe"] == first["smoe"]
    assert np.array_equal(second["smoe"].pictures["cascading"], first["smoe"].pictures["cascading"])
    assert first["smoe"].pictures["independent"].shape == (5, 2, 32, 32)
    made.clear()
    with pytest.raises(StaleResultsError, match=r"the result of other .*weights\."):
        check(trained(4), explainers=["smoe"])
    assert made == []
    kept = tmp_path / "cells" / "00000-smoe.json"
    kept.write_text(kept.read_text()[:100])
    with pytest.raises(ValueError, match=r"no result or no time of a cell|cannot be read"):
        check(trained(), explainers=["smoe"])
    kept.unlink()
    assert check(trained(), explainers=["smoe"])["smoe"] == first["smoe"]
    assert made == ["SMOE"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_is_kept_of_a_run_that_is_cut_short(tmp_path):
    class Broken(Explainer):
        def _explain(self, images, targets):
            raise RuntimeError("cut short")

    with pytest.raises(CellError, match="cut short"):
        sanity_check(trained(), IMAGES, {"smoe": None, "broken": Broken}, output=str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["00000-edges.json", "00000-smoe.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explainers": ["gradcam"]}, "gradcam.*Allowed are smoe"),
        ({"explainers": ["smoe", "smoe"]}, "each named once"),
        ({"explainers": []}, "Allowed are one or more"),
        ({"explainers": {"edges": WeightSum}}, "control"),
        ({"images": IMAGES[0]}, "at least one image"),
        ({"random_networks": 1}, "At least 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sanity_check(ConvNet(), **{"images": IMAGES, "explainers": ["smoe"], **changes})


@pytest.fixture
def photos(tmp_path):
    return noise_photos(tmp_path / "photos", 3)


def noise_photos(folder, count):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def arguments(photos, output, *more):
    network = ["--model.model", "small_cnn", "--model.num_classes", "10"]
    data = ["--data.class_path", "lightning_saliency.data.ImageFiles", "--data.init_args.paths", str(photos)]
    data += ["--data.init_args.resize", "40", "--data.init_args.crop", "40"]
    return [*network, *data, "--max_steps", "3", "--output", str(output), "--random_networks", "2", *more]


GROUP_CAM = '{"smoe": null, "few groups": {"class_path": "group_cam", "init_args": {"groups": 2}}}'


def test_the_command_writes_everything(tmp_path, photos, capsys):
    output = tmp_path / "out"
    torch.manual_seed(0)
    options = ["--explainers", GROUP_CAM, "--limit", "2", "--pictures", "1"]
    weights = tmp_path / "weights.pth"
    torch.save(build_network("small_cnn", 10).state_dict(), weights)
    options += ["--model.checkpoint", str(weights)]
    assert command.run(arguments(photos, output, *options)) == 0
    printed = capsys.readouterr().out
    assert "few groups: " in printed
    assert "edges: does not depend on the weights at all" in printed
    files = {"report.html", "table.md", "results.json", "similarities.csv", "similarities.png", "cascading_0.png"}
    assert {path.name for path in output.glob("[!.]*") if path.is_file()} == {*files, "independent_0.png"}
    result = json.loads((output / "results.json").read_text())
    assert [check["name"] for check in result["checks"]] == ["smoe", "few groups", "edges"]
    assert len(result["targets"]) == 2
    assert result["checks"][2]["verdict"]["kind"] == "insensitive"
    with (output / "similarities.csv").open() as file:
        rows = list(csv.DictReader(file))
    smoe = [
        row for row in rows if row["explainer"] == "smoe" and row["mode"] == "cascading" and row["measure"] == "ssim"
    ]
    assert [float(row["mean"]) for row in smoe] == pytest.approx(
        [np.mean(step["similarity"]["ssim"]) for step in result["checks"][0]["cascading"]], abs=1e-5
    )
    assert Image.open(output / "cascading_0.png").size[0] > 5 * 112
    page = (output / "report.html").read_text()
    assert "edges: does not depend on the weights at all" in page
    assert "few groups" in page
    written = {path: os.stat(path).st_mtime_ns for path in (output / "cells").iterdir()}
    assert command.run(arguments(photos, output, *options)) == 0
    assert {path: os.stat(path).st_mtime_ns for path in (output / "cells").iterdir()} == written


def test_the_command_finds_out_a_hundredth_of_the_weights(tmp_path, capsys):
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(build_network("small_cnn", 10).state_dict(), weights)
    mixed = {"edges and 1 % of noise": "benchmarks.sanity_calibration.Mixture", "weights": f"{__name__}.AllWeights"}
    options = ["--model.checkpoint", str(weights), "--pictures", "0", "--explainers", json.dumps(mixed)]
    assert command.run(arguments(noise_photos(tmp_path / "eight", 8), tmp_path / "out", *options)) == 0
    assert "edges and 1 % of noise: shows the image more than the weights: most of the" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    kinds = [check["verdict"]["kind"] for check in result["checks"]]
    assert kinds == ["insensitive", "fallen", "insensitive"]


def test_the_plan_runs_nothing_but_a_few_maps(tmp_path, photos, capsys):
    weights = tmp_path / "weights.pth"
    torch.save(build_network("small_cnn", 10).state_dict(), weights)
    options = ["--model.checkpoint", str(weights), "--explainers", '["smoe", "rise"]', "--plan"]
    assert command.run(arguments(photos, tmp_path / "out", *options)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    # 3 steps in both modes and 2 random networks, with the original maps: 8 times 3 images and 4,000 masks.
    assert "rise 1 0 96 k" in printed
    assert not (tmp_path / "out" / "cells").exists()
    timed = sorted(path.name for path in (tmp_path / "out" / "costs").iterdir())
    assert [name.rpartition("-")[0] for name in timed] == ["edges", "rise", "smoe"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--explainers", '["gradcam"]'], "gradcam.*smoe"),
        (["--explainers", '{"smoe": {"class_path": "smoe", "init_args": {"groups": 3}}}'], "groups"),
        (["--explainers", '{"sise": {"mu": 0.3}}'], "Allowed are class_path"),
        (["--explainers", '["smoe"]', "--random_networks", "1"], "random_networks=1"),
        (["--data.init_args.paths", "nowhere"], "no such file or folder"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, photos, more, message):
    with pytest.raises(UsageError, match=message):
        command.run(arguments(photos, tmp_path / "out", *more))


@pytest.mark.shared
@pytest.mark.slow
def test_on_a_pretrained_network(tmp_path, shared_data):
    """Deeper randomisation takes SMOE's maps further away, and Fast-CAM's at once, since the class is lost."""
    model = {
        "model": "squeezenet1_0",
        "num_classes": 1000,
        "checkpoint": str(shared_data / "weights" / "squeezenet1_0_imagenet.pth"),
    }
    files = {"paths": str(shared_data / "imagenet_nips17" / "images"), "resize": 144, "crop": 128}
    data = {"class_path": "lightning_saliency.data.ImageFiles", "init_args": files}
    options = {"limit": 2, "max_steps": 4, "random_networks": 2, "progress": False}
    result = run_sanity_check(model=model, data=data, explainers=["smoe", "fast_cam"], **options)
    smoe = [one.value for one in result["smoe"].intervals("cascading", "spearman")]
    fast_cam = [one.value for one in result["fast_cam"].intervals("cascading", "spearman")]
    assert smoe[-1] < smoe[0]
    assert fast_cam[0] < smoe[0]
    assert result["smoe"].verdict().line.startswith("undecided: 2 images can be compared, 8 or more are needed")


def test_the_page_tells_the_accuracy_and_what_follows_from_it():
    network, control = trained(), EIGHT[:4]
    with torch.no_grad():
        predicted = network.eval()(control).argmax(1).tolist()
    classes = network.linear.out_features
    labels = [*predicted[:3], (predicted[3] + 1) % classes]
    data = list(zip(control, labels, strict=True))
    result = run_sanity_check(model=network, data=data, explainers=["smoe"], max_steps=1, progress=False)
    assert (result.accuracy, result.labelled) == (0.75, 4)
    assert ("accuracy", "75.0 % of 4 images") in result.facts
    assert [line.partition(":")[0] for line in result.notices()] == chance_of(0.75, classes)
    unknown = run_sanity_check(model=network, data=control, explainers=["smoe"], max_steps=1, progress=False)
    assert "accuracy" not in dict(unknown.facts)


def chance_of(accuracy, classes):
    found = [*chance_notices("The network", accuracy, classes, 4), *image_notices(4)]
    return [line.partition(":")[0] for line in found]


def test_each_image_is_explained_for_its_own_class():
    """Also where some of the images are chosen."""
    targets, seen = [0, 1, 2, 3, 3, 2, 1, 0], []
    result = sanity_check(
        trained(), EIGHT, {"sum": partial(WeightSum, seen=seen)}, targets=targets, limit=4, max_steps=1
    )
    assert result.targets == (1, 2, 3, 2)  # of the images 1, 2, 4 and 5, as for the comparison
    assert all(explained == [1, 2, 3, 2] for _, explained in seen)
    assert dict(result.facts)["images"].startswith("4 images, chosen from 8 with seed 0")
    assert result.tables()[0].caption.startswith("Similarity of maps once all weights are random; 4 images")
    assert (result.accuracy, result.labelled) == (None, 0)


@pytest.mark.parametrize(
    ("targets", "message"),
    [([0, 1], "for 3 images"), ([0, 1, 10], r"the classes \[10\], but ConvNet has"), ([0.5] * 3, "whole numbers")],
)
def test_targets_that_do_not_fit_are_said(targets, message):
    with pytest.raises(ValueError, match=message):
        sanity_check(trained(), IMAGES, ["smoe"], targets=targets)


def test_a_network_of_one_logit_may_be_at_chance():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    nn.init.constant_(network[-1].bias, 9.0)  # always the second class
    data = [(image, index % 2) for index, image in enumerate(torch.cat([EIGHT] * 4))]
    result = run_sanity_check(model=network, data=data, explainers=["random"], max_steps=1, progress=False)
    assert result.classes == 2
    assert any(line.startswith("The network may be at chance: 50.0 % of 32 images") for line in result.notices())
