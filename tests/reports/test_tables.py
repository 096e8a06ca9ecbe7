"""Tables: what is best is marked, as it is printed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from rich.console import Console

from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.tables import Column, Estimate, TableData, difference_columns, ranked

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


def test_rows_beside_the_others_are_not_marked_and_a_column_may_do_without_intervals():
    columns = [COLUMNS[0], replace(COLUMNS[1], interval=False)]
    shown = replace(table(), columns=columns, unranked=("b",))
    shown.values["Net"]["c"]["ebpg"] = Estimate(50.0, 48.0, 52.0, 9)
    markdown = shown.markdown()
    assert "| b | 66.08 [64.08–68.08] |" in markdown
    assert "| a | **60.54** [58.54–62.54] |" in markdown
    assert "| c | **29.00** |" in markdown
    page = render_page("T", [Section("S", tables=[shown])])
    assert re.search(r'<td><span>66.08</span><span class="interval">64.08 to 68.08</span></td>', page)
    assert re.search(r'<td><span class="first">29.00</span></td>', page)


def test_ranks():
    assert ranked({"a": 1.0, "b": 2.0, "c": 3.0}, "low", 2) == {"a": 1, "b": 2}
    assert ranked({"a": 1.0, "b": 1.0, "c": 0.5}, "high", 2) == {"a": 1, "b": 1}
    assert ranked({"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.1}, "high", 2) == {"a": 1, "b": 2, "c": 2}
    assert ranked({"a": 1.0}, "high", 2) == {}
    assert ranked({"a": 1.0}, None, 2) == {}


def test_a_wide_table_is_parted_and_keeps_the_names_of_its_rows():
    columns = [Column(f"c{number}", f"a long heading {number}", "high", "scores") for number in range(9)]
    names = ["an explainer with a long name", "b"]
    rows = {
        name: {column.key: Estimate(10.0 * place, 10.0 * place - 1, 10.0 * place + 1, 9) for column in columns}
        for place, name in enumerate(names)
    }
    for width in (80, 60):
        console = Console(width=width, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(TableData(columns, {"Net": rows}).rich(width=width))
        lines = capture.get().splitlines()
        assert max(map(len, lines)) <= width
        heads = [line for line in lines if "a long heading" in line]
        assert len(heads) == sum("Net: scores" in line for line in lines) >= 4
        assert sum(line.count("a long heading") for line in heads) == 9
        assert sum("an explainer with a long name" in line for line in lines) == len(heads)
        assert "…" not in capture.get()


def test_a_very_long_name_is_folded():
    name = "a" * 50
    values = {"Net": {name: {"drop": Estimate(1.0, 0.0, 2.0, 9), "seconds": Estimate(1.0, 1.0, 1.0, 1)}}}
    console = Console(width=60, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(TableData(COLUMNS[1:], values).rich(width=60))
    assert capture.get().count("a" * 14) >= 2
    assert max(map(len, capture.get().splitlines())) <= 60
    assert "…" not in capture.get()


def test_where_all_tie_nothing_is_marked():
    rows = {name: {"ebpg": Estimate(10.0, 10.0, 10.0, 1)} for name in ("a", "b")}
    rows["beside"] = {"ebpg": Estimate(20.0, 20.0, 20.0, 1)}
    tied = TableData(COLUMNS[:1], {"Net": rows}, unranked=("beside",))
    assert "| a | 10.00 |" in tied.markdown()
    assert 'class="first"' not in render_page("T", [Section("S", tables=[tied])])
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(tied.rich(marks=False))
    assert "¹" not in capture.get()


def test_a_page_says_what_marks_and_measures_mean_once():
    ebpg, drop, seconds = table().columns
    columns = [replace(ebpg, about="on the object?"), replace(drop, about="what is lost?"), seconds]
    columns.insert(1, replace(columns[0], key="ebpg_3", title="EBPG 3"))
    again = replace(table(), columns=columns)
    page = render_page("T", [Section("S", tables=[again, replace(table(), caption="Another.")])])
    assert page.count("A caption.") == 1
    assert page.index("A caption.") < page.index("Net: against the boxes")
    assert page.count("</span>: the best of a column") == 1
    assert page.index("the best of a column") < page.index("<table")
    assert page.count("<li><b>EBPG, EBPG 3</b>: on the object?</li>") == 1
    assert page.count("<li><b>Drop%</b>: what is lost?</li>") == 1
    [alone] = [column for column in difference_columns(columns) if column.key == "drop"]
    assert alone.about == ""
    unmarked = replace(table(), columns=[COLUMNS[2]])
    page = render_page("T", [Section("S", tables=[unmarked])])
    assert "the best of a column" not in page
    assert page.index("</table>") < page.index("A caption.")


def test_a_wide_picture_scrolls_on_a_small_screen():
    page = render_page("T", [Section("S", pictures=[ReportPicture(np.zeros((2, 3, 3), np.uint8), "x")])])
    assert '<div class="scroll" tabindex="0"><img src="data:image/png;base64,' in page
    assert "figure img { max-width: 64rem; }" in page.partition("@media (max-width: 40rem)")[2]
