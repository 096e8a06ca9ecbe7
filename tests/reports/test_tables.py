"""Tables: what is best is marked, as it is printed."""

from __future__ import annotations

from rich.console import Console

from lightning_saliency.reports.tables import Column, Estimate, TableData, ranked

COLUMNS = [
    Column("ebpg", "EBPG", "high", "against the boxes"),
    Column("drop", "Drop%", "low", "against the network"),
    Column("seconds", "s/map", None, "cost", digits=3),
]


def table():
    def row(ebpg, drop):
        found = {"drop": Estimate(drop, drop - 1, drop + 1, 9), "seconds": Estimate(0.1234, 0.1, 0.2, 9)}
        return found | ({} if ebpg is None else {"ebpg": Estimate(ebpg, ebpg - 2, ebpg + 2, 9)})

    values = {"Net": {"a": row(60.544, 30.0), "b": row(66.08, 35.0), "c": row(60.539, 29.0), "d": row(None, 40.0)}}
    return TableData(COLUMNS, values, "A caption.")


def test_markdown():
    lines = table().markdown().splitlines()
    assert "| a | <u>60.54</u> [58.54–62.54] |" in lines
    assert "| b | **66.08** [64.08–68.08] |" in lines
    assert "| c | <u>60.54</u> [58.54–62.54] |" in lines
    assert "| d | – |" in lines
    assert "| c | **29.00** [28.00–30.00] |" in lines
    assert "| a | <u>30.00</u> [29.00–31.00] |" in lines
    assert "| a | 0.123 [0.100–0.200] |" in lines
    assert "### Net: against the boxes" in lines
    assert lines[-1] == "A caption."


def test_in_the_terminal_the_marks_need_no_colours():
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table().rich())
    shown = capture.get()
    assert "66.08¹" in shown
    assert shown.count("60.54²") == 2
    assert "29.00¹" in shown
    assert "30.00²" in shown
    assert "0.123 " in shown
    assert "¹ best, ² second best" in shown


def test_ranks():
    assert ranked({"a": 1.0, "b": 2.0, "c": 3.0}, "low", 2) == {"a": 1, "b": 2}
    assert ranked({"a": 1.0, "b": 1.0}, "high", 2) == {"a": 1, "b": 1}
    assert ranked({"a": 1.0}, None, 2) == {}
