"""Flags that reach into a mapping."""

from __future__ import annotations

import pytest
import yaml

from lightning_saliency.cli import explain, sanity_check, write_maps
from tests.paths import CONFIGS

SANITY_CHECK = ["--config", str(CONFIGS / "sanity_check.yaml"), "--explainers.rise.init_args.masks", "7"]
EXPLAIN = ["photo.jpg", "--model", "resnet18", "--explainers", "smoe", "--explainers.rise.init_args.masks=7"]
WRITE_MAPS = ["--config", str(CONFIGS / "write_maps_digit_scenes.yaml"), "--data.init_args.size", "7"]


@pytest.mark.parametrize(
    ("command", "arguments"), [(sanity_check, SANITY_CHECK), (explain, EXPLAIN), (write_maps, WRITE_MAPS)]
)
def test_the_printed_configuration_holds_what_flags_have_put_into_a_mapping(command, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.run([*arguments, "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    if command is write_maps:
        assert printed["data"]["init_args"]["size"] == 7
        assert printed["data"]["class_path"]
    else:
        assert printed["explainers"]["rise"] == {"init_args": {"masks": 7}}
        assert "smoe" in printed["explainers"]
