"""The figures: what they draw, held to counts by hand and to summary.csv, and what they say when data are lacking."""

import itertools
import multiprocessing
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from horizons.config import parse_experiment
from horizons.errors import UserError
from horizons.prompts import require_samples
from horizons.report.figures.by_horizon import acceptance, divergence_by_horizon
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration, calibration_bins, with_gaps
from horizons.report.figures.data import reduce_tables
from horizons.report.figures.frame import NAMED, swept_lines
from horizons.report.figures.glyphs import fit, printable
from horizons.report.plots import draw
from horizons.report.summary import summarize
from horizons.report.tables import open_tables
from horizons.store.files import write_results
from made_up import ODD_TEXTS, make_table, write_tables

STYLE = Path(__file__).parents[2] / "workflow" / "report" / "horizons.mplstyle"


def draw_all(folder, table, points, texts=("a", "b", "c", "d", "e"), samples=("q0",)):
    """Draw every figure, any warning an error; gives the PNG files by name."""
    folder.mkdir(exist_ok=True)
    candidates = []
    for run in points:
        candidates.append(folder / f"{run}.candidates.json.gz")
        write_results(candidates[-1], {"run": run, "token_texts": {str(i): text for i, text in enumerate(texts)}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(write_tables(folder, table), points, candidates, list(samples), STYLE, folder / "plots")
    return {path.stem: path for path in (folder / "plots").glob("*.png")}


def reduced(folder, table, point_of=None):
    """What the figures are drawn from, one point for all runs unless `point_of` says another."""
    point_of = point_of or dict.fromkeys(table["run"].unique(), "00000")
    with open_tables(write_tables(folder, table)) as tables:
        return reduce_tables(tables, point_of)


def texts_of(figure):
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
    assert len(first) == 16
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
def test_lacking_data_are_drawn_without_a_warning(tmp_path, change, horizons):
    table = change(make_table(samples=12, max_tokens=20, horizons=horizons))
    assert len(draw_all(tmp_path, table, {"00000": {}})) == 8


@pytest.mark.parametrize("values", [[n / 10 for n in range(20)], [f"task ${n}$ {'long ' * 9}" for n in range(20)]])
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
    expected = summarize(write_tables(tmp_path, table), {"00000": {}}, [results], [candidates])
    figure = divergence_by_horizon(reduced(tmp_path, table).by_horizon, swept_lines({"00000": "all prompts"}, None))
    for panel, number in zip(figure.axes, ["kl", "js"], strict=True):
        np.testing.assert_allclose(panel.lines[0].get_ydata(), expected[f"{number}_mean"])
        bars = [[low, high] for (_, low), (_, high) in panel.collections[0].get_segments()]
        np.testing.assert_allclose(bars, expected[[f"{number}_mean_low", f"{number}_mean_high"]])


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
    lines = [line for line in figures["divergence_by_horizon"].axes[0].lines if len(line.get_xdata()) == 4]
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
    assert "6 samples for each value swept" in texts_of(figures["acceptance"])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 30])
@pytest.mark.parametrize("name", ["temperature {}", "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW{}"])
def test_no_text_of_a_figure_covers_another_or_leaves_it(tmp_path, count, name):
    table = make_table(runs=count, samples=1, max_tokens=6, horizons=(1, 2, 4))
    data = reduced(tmp_path, table, {run: run for run in table["run"].unique()})
    horizons = [1, 2, 4]
    labels = {f"{n:05d}": name.format(n) for n in range(count)}
    with plt.style.context(STYLE):
        lines = swept_lines(labels, "task")
        figures = [
            divergence_by_position(data.spread, data.by_horizon, labels),
            calibration(data.bins, labels),
            acceptance(data.accepted, horizons, lines),
        ]
        for figure in figures:
            FigureCanvasAgg(figure).draw()
            boxes = drawn_texts(figure)
            assert max(box.height for text, box in boxes if len(text) > 25 and box.height > box.width) > 100
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
    sums = reduced(tmp_path, table).accepted.groupby("ahead")[["accepted", "n"]].sum()
    # Timesteps that have n positions before the end: 4, 3 and 1 in each sample; one of them holds the wrong token.
    assert sums["n"].to_dict() == {1: 8, 2: 6, 4: 2}
    assert sums["accepted"].to_dict() == {1: 8, 2: 5, 4: 1}


def test_acceptance_says_where_it_is_an_upper_bound(tmp_path):
    lines = swept_lines({"00000": "all prompts"}, None)
    some = reduced(tmp_path, make_table()).accepted
    assert "Upper bound at 4, 8 tokens (arrows)" in texts_of(acceptance(some, [1, 2, 4, 8], lines))
    exact = reduced(tmp_path, make_table(horizons=range(1, 9))).accepted
    assert "Upper bound" not in texts_of(acceptance(exact, range(1, 9), lines))


def test_few_samples_and_infinite_values_are_said(tmp_path):
    lines = swept_lines({"00000": "all prompts"}, None)
    table = make_table(samples=4)
    table.loc[table.index[1], "kl"] = np.inf
    text = texts_of(divergence_by_horizon(reduced(tmp_path, table).by_horizon, lines))
    assert "4 samples. No bar with fewer than 5 samples" in text
    assert f"1 of {len(table)} predictions have infinite KL" in text
    more = texts_of(divergence_by_horizon(reduced(tmp_path, make_table(samples=5)).by_horizon, lines))
    assert "Bars: 95 % interval over samples; 5 samples" in more
    assert "No bar" not in more


def test_a_mean_that_hangs_on_few_samples_is_hollow_and_said(tmp_path):
    """At horizon 2 nine of thirty samples differ from the others, at horizon 4 ten."""
    lines = swept_lines({"00000": "all prompts"}, None)
    table = make_table(samples=30, horizons=(1, 2, 4))
    differing = table["sample_idx"] < np.where(table["horizon"] == 2, 9, 10)
    table["kl"] = table["js"] = np.where(differing & (table["horizon"] > 1), 0.5, 0.0)
    figure = divergence_by_horizon(reduced(tmp_path, table).by_horizon, lines)
    assert "Hollow: fewer than 10 samples differ" in texts_of(figure)
    [solid, hollow] = figure.axes[0].lines
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
    bins, left_out = calibration_bins(reduced(tmp_path, table).bins)
    assert left_out == 4
    assert bins["bin"].tolist() == [2, 9]
    assert bins["confidence"].tolist() == pytest.approx([0.25, 0.999])
    assert bins["mean"].tolist() == pytest.approx([55 / 106, 0.5])  # sample 0, which is wrong, lost four
    assert with_gaps(bins)["mean"].isna().sum() == 8


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
