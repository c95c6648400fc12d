"""The figures: what they draw, held to counts by hand and to summary.csv, and what they say when data are lacking."""

import itertools
import multiprocessing
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from horizons.config import parse_experiment
from horizons.errors import UserError
from horizons.prompts import require_samples
from horizons.report.figures.acceptance import acceptance
from horizons.report.figures.by_horizon import divergence_by_horizon
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration, calibration_table, confidence_table, with_gaps
from horizons.report.figures.data import of_entries, reduce_tables
from horizons.report.figures.factors import factors_of
from horizons.report.figures.frame import NAMED, UNDATED, Look, swept_lines
from horizons.report.figures.glyphs import fit, printable
from horizons.report.plots import DEFAULT, draw
from horizons.report.summary import summarize
from horizons.report.tables import open_tables
from horizons.store.files import write_results
from made_up import ODD_TEXTS, make_table, write_tables

STYLE = Path(__file__).parents[2] / "workflow" / "report" / "horizons.mplstyle"


def draw_all(folder, table, points, texts=("a", "b", "c", "d", "e"), samples=("q0",), plots=DEFAULT):
    """Draw every figure, any warning an error; gives the PNG files by name."""
    folder.mkdir(exist_ok=True)
    candidates = []
    for run in points:
        candidates.append(folder / f"{run}.candidates.json.gz")
        write_results(candidates[-1], {"run": run, "token_texts": {str(i): text for i, text in enumerate(texts)}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(write_tables(folder, table), points, candidates, list(samples), STYLE, folder / "plots", plots=plots)
    return {path.stem: path for path in (folder / "plots").glob("*.png")}


def reduced(folder, table, point_of=None):
    """What the figures are drawn from, one point for all runs unless `point_of` says another."""
    point_of = point_of or dict.fromkeys(table["run"].unique(), "00000")
    with open_tables(write_tables(folder, table)) as tables:
        return reduce_tables(tables, point_of)


@pytest.fixture
def _as_png_alone(monkeypatch):
    """Figures are written in one format: to embed fonts in a PDF takes longer than to draw."""
    monkeypatch.setattr("horizons.report.figures.frame.UNDATED", {".png": UNDATED[".png"]})


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


ONE = factors_of({"00000": {}})


def texts_of(figure):
    """All texts of a figure, or of a sheet that holds one."""
    figure = getattr(figure, "figure", figure)
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(plt.Text))


def test_every_figure_is_there_and_the_same_again(tmp_path):
    """Again in another process: the addresses of objects, and the order of sets, are others there."""
    points = {f"{n:05d}": {"generation.temperature": n / 10} for n in range(4)}
    files = draw_all(tmp_path / "first", make_table(runs=4), points)
    assert sorted(files) == [
        "acceptance",
        "agreement_by_horizon",
        "calibration",
        "confidence_over_time",
        "divergence_by_horizon",
        "divergence_by_position",
        "surprisal_by_horizon",
        "trellis",
    ]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(draw_all, (tmp_path / "second", make_table(runs=4), points))
    first, second = (sorted((tmp_path / folder / "plots").iterdir()) for folder in ("first", "second"))
    assert len(first) == 8 * 4 + 3  # PNG, SVG, PDF and CSV of each; two files of captions, and confidence.csv
    assert [path.name for path in first] == [path.name for path in second]
    assert [one.name for one, other in zip(first, second, strict=True) if one.read_bytes() != other.read_bytes()] == []


@pytest.mark.parametrize(
    ("change", "horizons"),
    [
        (lambda table: table, [1]),
        (lambda table: table, [1, 16]),
        (lambda table: table, list(range(1, 9))),
        (lambda table: table[table["sample_idx"] == 0], [1, 2, 4, 8]),
        (lambda table: table.assign(kl=np.where(table["horizon"] > 1, np.inf, 0.0)), [1, 2, 4, 8]),
        (lambda table: table.assign(after_eos=table["relative_position"] > 0), [1, 2, 4, 8]),
        (lambda table: table.assign(after_eos=True), [1, 2, 4, 8]),
        (lambda table: table.assign(confidence=1.0), [1, 2]),
    ],
    ids=["only 1", "1 and 16", "1 to 8", "one sample", "infinite", "one token", "no text", "always sure"],
)
@pytest.mark.usefixtures("_as_png_alone")
def test_lacking_data_are_drawn_without_a_warning(tmp_path, change, horizons):
    table = change(make_table(samples=12, max_tokens=20, horizons=horizons))
    assert len(draw_all(tmp_path, table, {"00000": {}})) == 8


@pytest.mark.parametrize("values", [[n / 10 for n in range(20)], [f"task ${n}$ {'long ' * 9}" for n in range(20)]])
@pytest.mark.usefixtures("_as_png_alone")
def test_a_sweep_of_twenty_values_fits(tmp_path, values):
    points = {f"{n:05d}": {"some.key": value} for n, value in enumerate(values)}
    files = draw_all(tmp_path, make_table(runs=20, samples=2), points)
    heights = {name: plt.imread(path).shape[0] / 300 for name, path in files.items()}
    assert max(heights.values()) < 9, f"taller than a page, in inches: {heights}"


def test_the_legend_names_few_of_many_lines_and_says_so():
    lines = swept_lines({str(n): str(n) for n in range(20)}, "temperature")
    assert (len(lines.colors), len(lines.named)) == (20, NAMED)
    assert (lines.named[0], lines.named[-1]) == ("0", "19")
    assert "6 of 20" in lines.unnamed[0]
    assert swept_lines({"0": "a", "1": "b"}, None).unnamed == []


def test_any_token_text_is_drawn_without_a_warning(tmp_path):
    table = make_table(max_tokens=len(ODD_TEXTS), samples=1)
    table["final_token_id"] = table["relative_position"]
    table["top1_token_id"] = table["relative_position"]
    draw_all(tmp_path, table.assign(question_id="<q>$\u202e🙂"), {"00000": {}}, ODD_TEXTS, ["<q>$\u202e🙂"])


def test_printable_shows_what_could_not_be_seen():
    shown = {"\n": "↵", "\t": "⇥", "  ": "␣␣", " a": " a", "\u202eab": "\\u202eab", "<b>$x$</b>": "<b>$x$</b>"}
    assert {text: "".join(printable(text)) for text in shown} == shown


def test_fit_cuts_by_width_not_by_letters():
    assert fit("iiiiiiiiii", 20, 4.6) == "iiiiiiiiii"
    assert fit("WWWWWWWWWW", 20, 4.6) == "WWW…"


def test_lines_are_the_means_of_the_summary(tmp_path):
    table = make_table(samples=15)
    results = tmp_path / "00000.json.gz"
    made_with = {"config": {"generation": {"temperature": 0.0, "cfg_scale": 0.0}}}
    made_with |= {"environment": {"model": {"dtype": "float32"}}}
    write_results(results, {"metrics": {"score": None}, **made_with, "outputs": [{"nfe": 12, "output_ids": [1] * 12}]})
    candidates = tmp_path / "00000.candidates.json.gz"
    write_results(candidates, {"run": "00000", "choice_margins": [[1.0] * 12] * 15})
    summary = summarize(write_tables(tmp_path, table), {"00000": {}}, [results], [candidates])
    sheet = divergence_by_horizon(reduced(tmp_path, table).by_horizon, ONE, Look())
    matched, every = (summary[summary["entries"] == entries] for entries in ("matched", "all"))
    assert matched["n"].nunique() == 1
    for panel, number in zip(sheet.figure.axes, ["kl", "js"], strict=True):
        dotted, solid = panel.lines[:2]
        np.testing.assert_allclose(solid.get_ydata(), matched[f"{number}_mean"])
        np.testing.assert_allclose(dotted.get_ydata(), every[f"{number}_mean"])
        bars = [[low, high] for (_, low), (_, high) in panel.collections[0].get_segments()]
        np.testing.assert_allclose(bars, matched[[f"{number}_mean_low", f"{number}_mean_high"]])
        numbers = sheet.numbers[sheet.numbers["number"] == number]
        np.testing.assert_allclose(numbers["mean"], [*matched[f"{number}_mean"], *every[f"{number}_mean"]])


TASKS = [
    "任",
    "务",
    "\\u4efb",
    "a b",
    "a  b",
    "a b ",
    "a\u200bb",
    "\u202eab",
    "é",
    "e\u0301",
    "a",
    "а",
    "$x$",
    "_x",
    "x",
]
TASKS += ["", "∅", "\x00", "\n", "\r", "↵", "long " * 9 + "1", "long " * 9 + "2", "w" * 99 + "1" + "w" * 99, "w" * 199]


@pytest.fixture
def figures(monkeypatch):
    """The figures that `draw` makes, by name, instead of their files."""
    made = {}

    def keep(figure, stem):
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        made[stem.name] = figure

    monkeypatch.setattr("horizons.report.plots.save", keep)
    yield made
    plt.close("all")


def titles(figure):
    return [panel.get_title(loc="left") for panel in figure.axes if panel.get_title(loc="left")]


@pytest.mark.parametrize("first", range(0, len(TASKS), 5))
def test_points_of_different_names_are_never_pooled_nor_called_alike(tmp_path, figures, first):
    """What is drawn of each name in the legend and above the panels differs, as pixels, from all others."""
    names = [*TASKS[first : first + 5], "任", "务"]
    names = list(dict.fromkeys(names))
    points = {f"{n:05d}": {"dataset.task": name} for n, name in enumerate(names)}
    draw_all(tmp_path, make_table(runs=len(names), samples=2), points)
    legend = [text.get_text() for text in figures["acceptance"].legends[0].get_texts()]
    panels = titles(figures["divergence_by_position"])
    lines = [line for line in figures["divergence_by_horizon"].axes[0].lines if line.get_linestyle() == ":"]
    assert [len(each) for each in (legend, panels, lines)] == [len(names)] * 3
    for labels in (legend, panels, titles(figures["calibration"])):
        assert len({picture_of(label) for label in labels}) == len(names), labels
        assert not any("□" in label for label in labels)


def picture_of(label):
    """The ink of a text, cut to its edges."""
    figure = Figure(figsize=(9, 0.5), dpi=200)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.01, 0.5, label, fontsize=6, parse_math=False)
    canvas.draw()
    ink = np.asarray(canvas.buffer_rgba())[:, :, 0] < 128
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].tobytes() if len(rows) else b""


def test_shards_of_one_point_are_one_line(tmp_path, figures):
    points = {f"{n:05d}": {"generation.temperature": n // 2 / 2} for n in range(4)}
    draw_all(tmp_path, make_table(runs=4, samples=3), points)
    assert [text.get_text() for text in figures["acceptance"].legends[0].get_texts()] == ["0.0", "0.5"]
    assert titles(figures["calibration"]) == ["temperature 0.0", "temperature 0.5"]
    assert "of 6 samples each" in texts_of(figures["acceptance"])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 30])
@pytest.mark.parametrize("name", ["temperature {}", "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW{}"])
def test_no_text_of_a_figure_covers_another_or_leaves_it(tmp_path, count, name):
    table = make_table(runs=count, samples=1, max_tokens=6, horizons=(1, 2, 4))
    data = reduced(tmp_path, table, {run: run for run in table["run"].unique()})
    points = {f"{n:05d}": {"task": name.format(n)} for n in range(count)}
    with plt.style.context(STYLE):
        factors = factors_of(points)
        sheets = [
            divergence_by_horizon(data.by_horizon, factors, Look()),
            divergence_by_position(data.spread, data.by_horizon, factors, Look()),
            calibration(data.bins, factors, Look()),
            acceptance(data.accepted, [1, 2, 4], factors, Look()),
        ]
        for figure in [sheet.figure for sheet in sheets]:
            FigureCanvasAgg(figure).draw()
            boxes = drawn_texts(figure)
            for text, box in boxes:
                assert min(box.x0, box.y0) > -1, text
                assert box.x1 < figure.bbox.width + 1, text
                assert box.y1 < figure.bbox.height + 1, text
            for (one, a), (other, b) in itertools.combinations(boxes, 2):
                across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
                assert min(across, down) < 1, (one, other)
            plt.close(figure)


def drawn_texts(figure):
    """The texts that a figure shows, with their boxes in pixels; those of ticks beyond the axes are not shown."""
    hidden = set()
    for panel in figure.axes:
        for axis, (low, high) in ((panel.xaxis, sorted(panel.get_xlim())), (panel.yaxis, sorted(panel.get_ylim()))):
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            hidden |= {
                label for tick in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)
            }
        if not panel.axison:
            hidden |= {*panel.get_xticklabels(), *panel.get_yticklabels(), panel.xaxis.label, panel.yaxis.label}
    shown = [text for text in figure.findobj(plt.Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in shown if text not in hidden]


def test_different_tokens_are_never_shown_alike_in_a_trellis(tmp_path, figures):
    texts = [
        "任",
        "务",
        " a",
        "a",
        "international",
        "internationally",
        "\u200b",
        "\u200c",
        "#4",
        "é",
        "e\u0301",
        "",
        "∅",
    ]
    table = make_table(max_tokens=len(texts), samples=1)
    table["final_token_id"] = table["relative_position"]
    table["top1_token_id"] = table["relative_position"]
    draw_all(tmp_path, table, {"00000": {}}, texts)
    cells = [text.get_text() for panel in figures["trellis"].axes for text in panel.texts]
    assert len({picture_of(cell) for cell in cells}) == len(texts), cells


def test_two_samples_whose_names_are_cut_alike_are_told_apart(tmp_path, figures):
    names = ["q" * 99 + "1" + "q" * 99, "q" * 199]
    table = make_table(samples=2)
    table["question_id"] = table["sample_idx"].map(names.__getitem__)
    draw_all(tmp_path, table, {"00000": {}}, samples=names)
    assert [title[:19] for title in titles(figures["trellis"])] == ["run 00000, sample 0", "run 00000, sample 1"]


def test_a_font_that_has_the_script_is_used(tmp_path, figures, monkeypatch):
    """A made-up font of two characters, drawn as boxes."""
    path = tmp_path / "boxes.ttf"
    write_font(path, "Boxes", "任务")
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist])
    fontManager.addfont(path)
    points = {"00000": {"dataset.task": "任"}, "00001": {"dataset.task": "务"}}
    draw_all(tmp_path, make_table(runs=2), points)
    assert [text.get_text() for text in figures["acceptance"].legends[0].get_texts()] == ["任", "务"]
    assert figures["acceptance"].legends[0].get_texts()[0].get_fontfamily() == ["DejaVu Sans", "Boxes"]


def write_font(path, family, characters):
    names = [".notdef", *(f"box{n}" for n in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): name for character, name in zip(characters, names[1:], strict=True)})
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for point in [(0, 700), (400 + 100 * number, 700), (400 + 100 * number, 0)]:
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)


def test_acceptance_counts_all_of_the_next_tokens(tmp_path):
    """Two samples of four tokens, counted by hand: what fails at one horizon fails for every longer run."""
    table = make_table(samples=2, max_tokens=4, horizons=(1, 2, 3, 4))
    table["top1_token_id"] = table["final_token_id"]
    wrong = (table["sample_idx"] == 0) & (table["timestep"] == 0) & (table["horizon"] == 2)
    table.loc[wrong, "top1_token_id"] = -1
    accepted = reduced(tmp_path, table).accepted
    sums = accepted.groupby("ahead")[["accepted", "n"]].sum()
    # Timesteps that have n positions before the end: 4, 3, 2 and 1 in each sample; one of them holds the wrong token.
    assert sums["n"].to_dict() == {1: 8, 2: 6, 3: 4, 4: 2}
    assert sums["accepted"].to_dict() == {1: 8, 2: 5, 3: 3, 4: 1}
    # Matched is the first timestep alone, at which all four lie in the text.
    matched = of_entries(accepted, "matched").groupby("ahead")[["accepted", "n"]].sum()
    assert matched["n"].to_dict() == dict.fromkeys((1, 2, 3, 4), 2)
    assert matched["accepted"].to_dict() == {1: 2, 2: 1, 3: 1, 4: 1}


@pytest.mark.parametrize("horizons", [[1], [1, 3, 5], [1, 16], list(range(1, 17))])
def test_acceptance_is_drawn_at_the_recorded_horizons_whatever_they_are(tmp_path, horizons):
    accepted = reduced(tmp_path, make_table(samples=6, max_tokens=20, horizons=horizons)).accepted
    numbers = acceptance(accepted, horizons, ONE, Look()).numbers
    assert numbers[numbers["entries"] == "matched"]["tokens"].tolist() == horizons
    assert numbers["upper_bound"].tolist() == [h > 1 and horizons != list(range(1, 17)) for h in horizons] * 2


def test_where_tokens_are_drawn_accepting_is_explained_and_one_token_is_no_certainty(tmp_path):
    accepted = reduced(tmp_path, make_table(samples=6)).accepted
    greedy, drawn = (acceptance(accepted, [1, 2, 4, 8], ONE, Look(), at_random) for at_random in (False, True))
    assert "drawn at a temperature" not in texts_of(greedy)
    assert "a predicted token is accepted if it is the one that came in the end" in texts_of(drawn)
    low = [sheet.numbers.query("tokens == 1")["low"].iloc[0] for sheet in (greedy, drawn)]
    assert low[0] == 1
    assert low[1] < 1


def test_acceptance_says_where_it_is_an_upper_bound(tmp_path):
    some = reduced(tmp_path, make_table()).accepted
    assert "Upper bound at 4, 8 tokens (arrows)" in texts_of(acceptance(some, [1, 2, 4, 8], ONE, Look()))
    exact = reduced(tmp_path, make_table(horizons=range(1, 9))).accepted
    assert "Upper bound" not in texts_of(acceptance(exact, range(1, 9), ONE, Look()))


def test_few_samples_and_infinite_values_are_said(tmp_path):
    table = make_table(samples=4)
    table.loc[table.index[1], "kl"] = np.inf
    text = texts_of(divergence_by_horizon(reduced(tmp_path, table).by_horizon, ONE, Look()))
    assert "20 of 4 samples." in text
    assert "No bar with fewer than 5 samples" in text
    assert f"1 of {len(table)} predictions have infinite KL" in text
    more = texts_of(divergence_by_horizon(reduced(tmp_path, make_table(samples=5)).by_horizon, ONE, Look()))
    assert "Bars: 95 % interval over samples" in more
    assert "No bar" not in more


def test_the_note_counts_entries_and_samples_of_each_horizon_counted_by_hand(tmp_path):
    """Of five samples of twelve positions two end after six, which no prediction of horizon 8 reaches."""
    table = make_table(samples=5)
    table = table[(table["sample_idx"] > 1) | (table["relative_position"] < 6)]
    table.loc[table["relative_position"] == 0, "special"] = "other"
    text = texts_of(divergence_by_horizon(reduced(tmp_path, table).by_horizon, ONE, Look()))
    assert "Solid: the positions that have every horizon, 15 of 3 samples." in text
    counts = {1: (43, 5), 2: (43, 5), 4: (33, 5), 8: (15, 3)}  # at horizon h positions from h - 1 on, but position 0
    listed = [f"{n} of {samples} samples at{' horizon' * (h == 1)} {h}" for h, (n, samples) in counts.items()]
    assert f"Dotted: all, {', '.join(listed)}. Without end-of-text and other special tokens." in text


def test_special_tokens_are_left_out_of_every_figure(tmp_path):
    """With and without the entries of positions that a special token was committed at, the figures are the same."""
    table = make_table(samples=12)
    end = table["relative_position"] == 9
    odd = table.assign(special=np.where(end, "end_of_text", "text"), kl=table["kl"] + 100 * end, confidence=0.5)
    with_ends, without = reduced(tmp_path / "a", odd), reduced(tmp_path / "b", odd[~end])
    for one, other in zip(with_ends, without, strict=True):
        np.testing.assert_array_equal(one.drop(columns="point"), other.drop(columns="point"))


def test_a_mean_that_hangs_on_few_samples_is_hollow_and_said(tmp_path):
    """At horizon 2 nine of thirty samples differ from the others, at horizon 4 ten."""
    table = make_table(samples=30, horizons=(1, 2, 4))
    differing = table["sample_idx"] < np.where(table["horizon"] == 2, 9, 10)
    table["kl"] = table["js"] = np.where(differing & (table["horizon"] > 1), 0.5, 0.0)
    figure = divergence_by_horizon(reduced(tmp_path, table).by_horizon, ONE, Look()).figure
    assert "Hollow: fewer than 10 samples differ" in texts_of(figure)
    [_, solid, hollow] = figure.axes[0].lines
    assert solid.get_xdata().tolist() == [1, 2, 4]
    assert (hollow.get_xdata().tolist(), hollow.get_markerfacecolor()) == ([2], "white")


def test_positions_few_samples_reach_are_not_drawn(tmp_path):
    table = make_table(samples=8, horizons=(1, 2))
    table = table[(table["relative_position"] < 6) | (table["sample_idx"] < 4)]
    spread = reduced(tmp_path, table).spread.query("horizon == 2").set_index("relative_position")
    assert spread["median"].notna().to_dict() == {position: position < 6 for position in range(1, 12)}


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_the_spread_is_numpys_however_few_values_are_held_at_once(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("horizons.report.figures.data.VALUES_AT_ONCE", at_once)
    table = make_table(runs=2, samples=7)
    spread = reduced(tmp_path, table).spread
    ahead = table[table["horizon"] > 1].groupby(["horizon", "relative_position"])["kl"]
    for name, quantile in {"median": 0.5, "low": 0.1, "high": 0.9}.items():
        expected = ahead.apply(lambda kl, at=quantile: np.quantile(kl, at, method="inverted_cdf"))
        np.testing.assert_allclose(spread[name], expected, rtol=1e-8)


def test_calibration_is_the_frequency_of_being_right(tmp_path):
    table = make_table(samples=20, horizons=(1, 2)).query("horizon == 2").copy()
    table["confidence"] = np.where(table["sample_idx"] < 10, 0.25, 0.999)
    table["top1_token_id"] = np.where(table["sample_idx"] % 2, table["final_token_id"], -1)
    table.loc[table.index[:4], "confidence"] = 0.75  # a bin of too few
    sums = reduced(tmp_path, table.assign(matched=True)).bins
    bins = calibration_table(sums).query("entries == 'matched'")
    assert bins["bin"].tolist() == [2, 7, 9]
    assert bins["n"].tolist() == [106, 4, 110]
    assert bins["samples"].tolist() == [10, 1, 10]
    assert bins["confidence"].tolist() == pytest.approx([0.25, 0.75, 0.999])
    assert bins["accuracy"].tolist() == pytest.approx([55 / 106, 0.0, 0.5])  # sample 0, which is wrong, lost four
    error = (abs(55 - 0.25 * 106) + 0.75 * 4 + 0.499 * 110) / 220
    assert bins["expected_calibration_error"].tolist() == pytest.approx([error] * 3)
    assert with_gaps(bins)["accuracy"].isna().sum() == 7
    assert "Bins of fewer than 10 predictions are not drawn (4 predictions)" in texts_of(calibration(sums, ONE, Look()))


def test_confidence_counts_what_is_above_a_threshold_and_how_often_it_is_right(tmp_path):
    """Against plain pandas; and the largest horizon is that whose predictions are right as often as asked."""
    table = make_table(samples=30)
    sure = table["confidence"] > 0.9
    right = sure & (table["horizon"] < 8) | (table["confidence"] > 0.99) & (table["relative_position"] % 2 == 0)
    table["top1_token_id"] = np.where(right, table["final_token_id"], -1)
    found = confidence_table(reduced(tmp_path, table).steps)
    for entries, of in (("matched", table[table["matched"]]), ("all", table)):
        rows = found[found["entries"] == entries].set_index(["above", "horizon"])
        for (above, horizon), row in rows.iterrows():
            at = of[of["horizon"] == horizon]
            over = at[at["confidence"] > above]
            accuracy = (over["top1_token_id"] == over["final_token_id"]).mean()
            assert (row["n"], row["n_above"]) == (len(at), len(over))
            assert (row["share"], row["accuracy"]) == (pytest.approx(len(over) / len(at)), pytest.approx(accuracy))
            if row["samples_above"] >= 5:
                assert row["accuracy_low"] - 1e-9 <= row["accuracy"] <= row["accuracy_high"] + 1e-9
                assert row["accuracy_low"] < row["accuracy_high"]
    largest = found.drop_duplicates(["entries", "above"]).set_index(["entries", "above"])["largest_horizon"]
    assert largest["matched", 0.9] == 4
    assert largest.isna()["matched", 0.5]


def test_no_interval_of_a_fraction_that_is_drawn_has_no_width(tmp_path):
    """Where all agree, Wilson's interval still has one; only what holds by definition has none."""
    table = make_table(samples=12).assign(top1_agreement=1.0, top5_agreement=0.0, confidence=1.0)
    table["top1_token_id"] = table["final_token_id"]
    draw_all(tmp_path, table, {"00000": {}})
    for name in ("agreement_by_horizon", "calibration", "acceptance", "confidence_over_time"):
        numbers = pd.read_csv(tmp_path / "plots" / f"{name}.csv")
        across = next(x for x in ("horizon", "tokens", "timesteps_until_commit") if x in numbers)
        fractions = numbers[numbers[across] > 1]
        fractions = fractions[fractions["number"] != "entropy"] if "number" in fractions else fractions
        assert (fractions["high"] - fractions["low"] > 0.01).all(), name


EXPERIMENT = {"model": {"name": "m"}, "dataset": {"path": "p.jsonl"}}


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    (tmp_path / "p.jsonl").write_text('{"id": "copy-0", "prompt": "a"}\n{"id": "copy-1", "prompt": "b"}\n')
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("prompts")
def test_samples_are_chosen_by_question_id():
    assert require_samples(parse_experiment(EXPERIMENT, "x.yaml"), "x.yaml") == ["copy-0"]
    chosen = parse_experiment(EXPERIMENT | {"plots": {"samples": ["copy-1"]}}, "x.yaml")
    assert require_samples(chosen, "x.yaml") == ["copy-1"]


@pytest.mark.usefixtures("prompts")
def test_a_sample_that_no_prompt_has_is_one_line():
    wrong = parse_experiment(EXPERIMENT | {"plots": {"samples": ["copy-9"]}}, "x.yaml")
    with pytest.raises(UserError) as error:
        require_samples(wrong, "x.yaml")
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in ("x.yaml", "plots.samples", "copy-9", "is it 'copy-"))


def test_plots_are_no_part_of_a_run():
    from horizons.config import expand_runs

    plain = parse_experiment(EXPERIMENT, "x.yaml")
    chosen = parse_experiment(EXPERIMENT | {"plots": {"samples": ["copy-1"]}}, "x.yaml")
    assert [run.to_dict() for run in expand_runs(plain)] == [run.to_dict() for run in expand_runs(chosen)]
    with pytest.raises(UserError, match="can't be swept"):
        parse_experiment(EXPERIMENT | {"sweep": {"plots.samples": [["copy-1"]]}}, "x.yaml")
