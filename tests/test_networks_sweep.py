"""The sweep over installed networks (`benchmarks.networks`), on a sample of them."""

from __future__ import annotations

import gzip
import itertools
import json
import sys

import pytest
import torch
from torch import nn

from benchmarks import networks
from benchmarks._network_members import Member, members
from benchmarks.networks import CHECKS, answers, page, sweep
from tests.networks import MLP, ConvNet, EncoderDecoder, TokenTransformer


def of_timm(name, **options):
    timm = pytest.importorskip("timm")
    return lambda: timm.create_model(name, num_classes=5, **options)


SAMPLE = {
    "class token, 12 blocks": ("vit_tiny_patch16_224", {"img_size": 64}, 64),
    "class attention": ("cait_xxs24_224", {"img_size": 64, "depth": 4}, 64),
    "two branches with class tokens": ("crossvit_tiny_240", {}, 240),
    "class attention behind convolutions": ("xcit_nano_12_p16_224", {"img_size": 64}, 64),
    "rotary positions": ("eva02_tiny_patch14_224", {"img_size": 56}, 56),
    "relative positions": ("beit_base_patch16_224", {"img_size": 64, "depth": 4, "embed_dim": 64, "num_heads": 4}, 64),
    "inverted bottlenecks": ("mobilenetv2_050", {}, 64),
    "dense blocks": ("densenet121", {"growth_rate": 4, "block_config": (2, 2, 2, 2)}, 64),
}


@pytest.mark.grid(every=2)
@pytest.mark.parametrize("kind", SAMPLE)
def test_a_sample_of_timm_s_families_does_everything(kind):
    name, options, side = SAMPLE[kind]
    row = answers(Member("timm", kind, name, of_timm(name, **options), (3, side, side)))
    assert row["built"] == "ok", row
    assert {check: row[check] for check in CHECKS} == dict.fromkeys(CHECKS, "ok"), row


def test_a_member_of_each_family_is_found_without_downloads():
    pytest.importorskip("timm")
    found = [*itertools.islice(members("timm"), 1), *itertools.islice(members("torchvision"), 1)]
    assert [(each.library, each.family) for each in found] == [("timm", "beit"), ("torchvision", "alexnet")]
    assert all(len(each.size) == 3 and each.name for each in found)
    assert isinstance(found[1].build(), nn.Module)


class Failing(nn.Module):
    def forward(self, images):
        raise RuntimeError("not | on these <images>")


def test_the_page_counts_and_says_what_does_not_work(tmp_path, monkeypatch):
    made = []

    def member(family, build):
        def counted():
            made.append(family)
            return build()

        return Member("timm", family, family, counted, (3, 32, 32))

    all_members = [
        member("convolutions", ConvNet),
        member("tokens", TokenTransformer),
        member("pixels", EncoderDecoder),
        member("flat", MLP),
        member("failing", Failing),
    ]
    lines = tmp_path / "answers.jsonl"
    sweep(all_members[:2], lines)
    rows = sweep(all_members, lines)
    # What a sweep that was ended has asked is not asked again.
    assert made == ["convolutions", "tokens", "pixels", "flat", "failing"]
    assert [row["family"] for row in rows] == made
    text = page(rows, "30 November 2026, commit abc1234")
    assert "`networks/answers.json.gz` (30 November 2026, commit abc1234)." in text
    assert "| timm | 5 | 4 | 3 | 3 | 3 | 3 | 3 |" in text
    assert "| timm: flat | scales | refused: NoScalesError" in text
    assert "| timm: failing | no: RuntimeError: not \\| on these &lt;images> |" in text

    monkeypatch.setattr(networks, "members", lambda library: iter(all_members if library == "timm" else []))
    monkeypatch.setattr(sys, "argv", ["networks", "--libraries", "timm", "--limit", "1", "--out", str(tmp_path)])
    networks.main()
    kept = json.loads(gzip.decompress((tmp_path / "networks" / "answers.json.gz").read_bytes()))
    assert [row["family"] for row in kept] == ["convolutions"]
    assert kept[0]["found"][0] == ["pool1", "input", 32, 32, 8, "NCHW"]
    made = (tmp_path / "networks.md").read_text()
    assert made.startswith("# Which networks it works on")
    assert f", torch {torch.__version__.split('+')[0]}" in made
    assert torch.is_grad_enabled()
