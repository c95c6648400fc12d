"""Sweeps of two keys as colours and panels, up to eight by six; what a paper needs of figures; and their captions."""

import itertools
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_plots import STYLE, draw_all, drawn_texts, reduced, texts_of

from horizons.config import Plots, parse_experiment
from horizons.errors import UserError
from horizons.report.captions import Caption, escape, write_captions
from horizons.report.figures.acceptance import acceptance
from horizons.report.figures.by_horizon import agreement_by_horizon, divergence_by_horizon
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration
from horizons.report.figures.factors import factors_of
from horizons.report.figures.frame import Look
from horizons.report.plots import figure_style
from made_up import make_table

TASKS = [f"a task of many words, number {n}" for n in range(9)]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def points_of(colors, panels):
    """The points of a sweep over tasks and temperatures."""
    swept = itertools.product(TASKS[:colors], range(panels))
    return {f"{n:05d}": {"dataset.task": task, "generation.temperature": t / 10} for n, (task, t) in enumerate(swept)}


def sheets_of(folder, points, factors, horizons=(1, 2, 4), **settings):
    """The figures that show a sweep, of made-up tables."""
    table = make_table(runs=len(points), samples=6, max_tokens=10, horizons=horizons)
    data = reduced(folder, table, {point: point for point in points})
    look = Look(**settings)
    return {
        "divergence_by_horizon": divergence_by_horizon(data.by_horizon, factors, look),
        "agreement_by_horizon": agreement_by_horizon(data.by_horizon, factors, look),
        "divergence_by_position": divergence_by_position(data.spread, data.by_horizon, factors, look),
        "calibration": calibration(data.bins, factors, look),
        "acceptance": acceptance(data.accepted, list(horizons), factors, look),
    }


def test_the_first_swept_key_is_colour_and_the_others_are_panels_unless_chosen():
    points = points_of(2, 3)
    factors = factors_of(points)
    assert list(factors.lines.labels.values()) == TASKS[:2]
    assert list(factors.panels.values()) == ["temperature 0.0", "temperature 0.1", "temperature 0.2"]
    assert factors.lines.title == "task"
    other = factors_of(points, color="generation.temperature")
    assert list(other.lines.labels.values()) == ["0.0", "0.1", "0.2"]
    assert list(other.panels.values()) == TASKS[:2]
    assert factors_of(points, panels="dataset.task") == other
    alone = factors_of(
        {run: {"dataset.task": point["dataset.task"]} for run, point in points.items()}, panels="dataset.task"
    )
    assert (len(alone.lines.colors), list(alone.panels.values())) == (1, TASKS[:2])


@pytest.mark.parametrize(("colors", "panels"), [(2, 3), (8, 6)])
def test_every_point_is_drawn_in_its_colour_and_panel_and_no_text_covers_another(tmp_path, colors, panels):
    points = points_of(colors, panels)
    with plt.style.context(STYLE):
        for name, sheet in sheets_of(tmp_path, points, factors_of(points)).items():
            FigureCanvasAgg(sheet.figure).draw()
            boxes = drawn_texts(sheet.figure)
            written = " ".join(text.replace("\n", " ") for text, _ in boxes)
            assert all(task in written for task in TASKS[:colors]), name  # whole, or on several lines
            assert all(f"temperature {t / 10}" in written for t in range(panels)), name
            assert set(sheet.numbers["point"]) == set(points), name
            for text, box in boxes:
                assert min(box.x0, box.y0) > -1, (name, text)
                assert box.x1 < sheet.figure.bbox.width + 1, (name, text)
            for (one, a), (other, b) in itertools.combinations(boxes, 2):
                across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
                assert min(across, down) < 1, (name, one, other)
            assert sheet.figure.get_figheight() < 11, name


def test_a_panel_holds_the_means_of_its_own_points(tmp_path):
    points = points_of(2, 3)
    sheet = sheets_of(tmp_path, points, factors_of(points))["divergence_by_horizon"]
    numbers = sheet.numbers[(sheet.numbers["entries"] == "matched") & (sheet.numbers["number"] == "kl")]
    for row, point in enumerate(list(points)[:3]):  # of the first task
        [*_] = lines = [line for line in sheet.figure.axes[2 * row].lines if line.get_linestyle() == "-"]
        np.testing.assert_allclose(lines[0].get_ydata(), numbers[numbers["point"] == point]["mean"])


@pytest.mark.parametrize(("colors", "panels"), [(9, 1), (9, 2), (2, 7)])
def test_beyond_eight_by_six_every_point_is_a_row_of_a_map(tmp_path, colors, panels):
    points = points_of(colors, panels)
    factors = factors_of(points)
    assert not factors.fits
    with plt.style.context(STYLE):
        for name, sheet in sheets_of(tmp_path, points, factors).items():
            rows = [text.get_text() for text in sheet.figure.axes[0].get_yticklabels()]
            assert rows == list(factors.labels.values()), name
            assert "A row for each swept value" in texts_of(sheet)


def test_lines_that_would_lie_on_one_row_of_pixels_are_on_a_logarithmic_axis(tmp_path):
    points = points_of(3, 1)
    table = make_table(runs=3, samples=6, max_tokens=10, horizons=(1, 2, 4))
    table["kl"] *= table["run"].map({"00000": 1e-4, "00001": 1e-2, "00002": 3.0})
    data = reduced(tmp_path, table, {point: point for point in points})
    factors = factors_of(points)
    sheets = [
        divergence_by_horizon(data.by_horizon, factors, Look()),
        divergence_by_position(data.spread, data.by_horizon, factors, Look()),
    ]
    for sheet in sheets:
        assert sheet.figure.axes[0].get_yscale() == "symlog"
        assert "logarithmic above 1e-05" in texts_of(sheet) or "logarithmic above 0.0001" in texts_of(sheet)
    assert sheets[0].figure.axes[1].get_yscale() == "linear"


def test_markers_at_0_and_1_are_not_cut(tmp_path):
    table = make_table(samples=6).assign(top1_agreement=1.0, top5_agreement=0.0)
    sheet = agreement_by_horizon(reduced(tmp_path, table).by_horizon, factors_of({"00000": {}}), Look())
    marked = [line for panel in sheet.figure.axes for line in panel.lines if line.get_marker() not in ("None", None)]
    assert len(marked) == 4
    assert not any(line.get_clip_on() for line in marked)


def test_of_sixteen_horizons_few_have_a_band(tmp_path):
    horizons = range(1, 17)
    table = make_table(samples=6, max_tokens=20, horizons=horizons)
    data = reduced(tmp_path, table)
    sheet = divergence_by_position(data.spread, data.by_horizon, factors_of({"00000": {}}), Look())
    [panel] = sheet.figure.axes
    assert len(panel.lines) == 15
    assert len(panel.collections) == 3
    assert "Band (of horizons 2, 9, 16)" in texts_of(sheet) or "band (of horizons 2, 9, 16)" in texts_of(sheet)


def test_a_figure_for_a_paper_has_neither_title_nor_notes_and_its_own_width_and_fonts(tmp_path):
    plots = Plots(titles=False, columns=2, font="DejaVu Serif", font_size=9.0)
    points = points_of(2, 1)
    with figure_style(STYLE, plots):
        for name, sheet in sheets_of(tmp_path, points, factors_of(points), framed=plots.titles).items():
            FigureCanvasAgg(sheet.figure).draw()
            texts = {text for text, _ in drawn_texts(sheet.figure)}
            assert not any(sheet.title[:20] in text or "95 %" in text for text in texts), name
            assert sheet.figure.get_figwidth() == 7.0
            assert sheet.figure.axes[0].xaxis.label.get_fontfamily()[0] == "DejaVu Serif"
            assert sheet.figure.axes[0].xaxis.label.get_fontsize() == 9.0
            assert any("special tokens" in note for note in sheet.notes), name
    assert mpl.rcParams["font.family"] != ["DejaVu Serif"]


def test_no_text_is_smaller_than_six_points(tmp_path):
    points = points_of(8, 6)
    with plt.style.context(STYLE):
        for sheet in sheets_of(tmp_path, points, factors_of(points)).values():
            shown = [text for text in sheet.figure.findobj(plt.Text) if text.get_text().strip()]
            assert min(text.get_fontsize() for text in shown) >= 6


def test_a_font_that_is_not_there_is_one_line():
    said = r"^plots\.font is 'No Such Font'; no such font is installed here; .*$"
    with pytest.raises(UserError, match=said), figure_style(STYLE, Plots(font="No Such Font")):
        pass


def test_the_text_of_a_pdf_is_text(tmp_path):
    files = draw_all(tmp_path, make_table(samples=6), {"00000": {}}, plots=Plots(numbers=["kl_reverse", "surprisal"]))
    content = files["divergence_by_horizon"].with_suffix(".pdf").read_bytes()
    assert b"/Subtype /Type3" not in content
    assert b"/FontFile2" in content  # TrueType, in which letters are letters
    numbers = pd.read_csv(files["divergence_by_horizon"].with_suffix(".csv"))
    assert set(numbers["number"]) == {"kl_reverse", "surprisal"}


def test_captions_hold_the_numbers_of_the_tables_and_what_is_left_out(tmp_path):
    points = {"00000": {"dataset.task": "50 % of a_b"}, "00001": {"dataset.task": "$x$"}}
    draw_all(tmp_path, make_table(runs=2, samples=6), points)
    plots = tmp_path / "plots"
    markdown, latex = ((plots / f"captions.{ending}").read_text() for ending in ("md", "tex"))
    for name in (
        "divergence_by_horizon",
        "divergence_by_position",
        "calibration",
        "acceptance",
        "agreement_by_horizon",
    ):
        assert f"({name}.svg)" in markdown
        assert f"\\includegraphics{{{name}.pdf}}" in latex
        assert f"\\label{{fig:{name.replace('_', '-')}}}" in latex
    assert markdown.count("ithout end-of-text and other special tokens") == 7  # all but single samples
    numbers = pd.read_csv(plots / "divergence_by_horizon.csv")
    row = numbers.query("entries == 'matched' and number == 'kl' and horizon == 8").iloc[0]
    assert f"{row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}] (50 % of a_b)" in markdown
    assert "(50 \\% of a\\_b)" in latex
    assert "(\\$x\\$)" in latex


def test_a_latex_caption_has_no_character_that_is_a_command():
    text = "\\ { } $ & # % _ ^ ~ < > | é ‖"
    escaped = escape(text)
    bare = re.sub(r"\\(text\w+\{\}|[{}$&#%_])", "", escaped)
    assert not set(bare) & set("\\{}$&#%_^~<>|")
    assert "é ‖" in escaped


def test_captions_are_sentences(tmp_path):
    write_captions({"x": Caption("How?", "the mean is 1", ["without this", "and that"])}, tmp_path / "captions")
    assert (
        tmp_path / "captions.md"
    ).read_text() == "![How?](x.svg)\n\n**How?** The mean is 1. Without this. And that.\n"


EXPERIMENT = {"model": {"name": "m"}, "dataset": {"path": "p.jsonl"}, "sweep": {"dataset.task": ["a", "b"]}}


@pytest.mark.parametrize(
    ("plots", "said"),
    [
        (
            {"colour": "generation.temperature"},
            "plots.colour is 'generation.temperature'; it must be a swept key: dataset",
        ),
        ({"panels": "task"}, "plots.panels is 'task'; it must be a swept key"),
        (
            {"colour": "dataset.task", "panels": "dataset.task"},
            "plots.panels is 'dataset.task'; colour is the same key",
        ),
        ({"numbers": ["kl", "renyi"]}, "plots.numbers is 'renyi'; known are kl, kl_reverse"),
        ({"columns": 3}, "plots.columns is 3; it must be 1 or 2"),
        ({"titels": False}, "plots.titels is not a known key; did you mean titles?"),
    ],
)
def test_what_figures_can_not_show_is_one_line(plots, said):
    with pytest.raises(UserError) as error:
        parse_experiment(EXPERIMENT | {"plots": plots}, "x.yaml")
    assert str(error.value).startswith(f"x.yaml: {said}"), error.value
    assert "\n" not in str(error.value)
