"""From the tables of an experiment to its figures, the tables of what they draw, and their captions. No torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.font_manager import FontProperties, findfont

from horizons.config import Plots, pool_seeds
from horizons.errors import UserError
from horizons.progress import progress
from horizons.report.captions import Caption, write_captions
from horizons.report.coherence import coherence_by_point
from horizons.report.figures.acceptance import acceptance
from horizons.report.figures.by_horizon import (
    agreement_by_horizon,
    confidence_over_time,
    divergence_by_horizon,
)
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration, confidence_table
from horizons.report.figures.commit_order import commit_order
from horizons.report.figures.comparison import comparison
from horizons.report.figures.data import commits_of, reduce_numbers, reduce_tables
from horizons.report.figures.factors import factors_of
from horizons.report.figures.frame import (
    BEFORE_COMMIT,
    POSITIONS_AHEAD,
    TWO_COLUMNS,
    UNDATED,
    USUAL_SIZE,
    Look,
    Sheet,
    save,
    swept_lines,
)
from horizons.report.figures.glyphs import use_fonts_for
from horizons.report.figures.groups import groups
from horizons.report.figures.own_numbers import own_numbers
from horizons.report.figures.speed import looks_of, speed
from horizons.report.figures.surprisal import coherence, surprisal_by_horizon
from horizons.report.figures.trellis import choose_samples, trellis
from horizons.report.floor import floors_of
from horizons.report.labels import as_written, group_points, label_points, swept_keys
from horizons.report.tables import open_tables
from horizons.store.files import run_number
from horizons.store.streams import read_outputs, read_token_texts
from horizons.store.tables import write_table

Points = Mapping[str, Mapping[str, Any]]  # the swept values of each run by its number
# The name of a figure, the function that makes it, and what that is given; all of it can be pickled.
NamedFigure = tuple[str, Callable[..., Sheet], tuple[Any, ...]]
# The figure of a left-to-right experiment that another has not, and the other way round.
OF_ORDER = {True: "acceptance", False: "commit_order"}
SIZES = ["font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize", "legend.title_fontsize"]
SIZES += ["xtick.labelsize", "ytick.labelsize"]
DEFAULT = Plots()


def draw(
    table_files: Iterable[Path],
    points: Points,
    candidates_files: Iterable[Path],
    samples: Sequence[str],
    style: Path,
    folder: Path,
    processes: int = 1,
    left_to_right: bool = True,
    plots: Plots = DEFAULT,
    drawn_tokens: bool = False,
    noise_files: Iterable[Path] = (),
) -> None:
    """Draw the figures of an experiment into `folder`, so many `processes` at once: each as PNG, SVG and PDF, and
    what it draws as CSV. Beside them go their captions and `confidence.csv`.

    `table_files` are the divergence tables of its runs, `points` the swept values of each run by its number,
    `candidates_files` hold the texts of their tokens, and `samples` are the question ids of those drawn token by token.
    Positions after the end of the text, and those of special tokens, are left out, and so is infinity, which no axis
    holds; the figures say how much. Where not all runs are `left_to_right`, horizons are timesteps, and `acceptance`
    gives way to `commit_order`. `drawn_tokens` says that some tokens are drawn, guided or given; `noise_files` are the
    tables of noise of the runs, where it was measured. Raises UserError.
    """
    texts = TokenTexts(candidates_files)
    with figure_style(style, plots):
        point_of = group_points(points)
        with open_tables(table_files) as tables:
            data = reduce_tables(tables, point_of, plots.numbers)
            commits = None if left_to_right else commits_of(tables, point_of)
            drawn = choose_samples(tables, samples, texts.of_run, label_points(points))
        use_fonts_for([*label_points(points).values(), *(text for sample in drawn for text in sample.texts)])
        factors = factors_of(points, plots.colour, plots.panels)
        look = Look(POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT, plots.titles)
        horizons = sorted(data.by_horizon["horizon"].unique())
        floors = floors_of(noise_files, point_of)
        figures = [
            ("divergence_by_horizon", divergence_by_horizon, (data.by_horizon, factors, look, plots.numbers, floors)),
            ("divergence_by_position", divergence_by_position, (data.spread, data.by_horizon, factors, look)),
            ("agreement_by_horizon", agreement_by_horizon, (data.by_horizon, factors, look)),
            ("confidence_over_time", confidence_over_time, (data.by_horizon, factors, look)),
            ("calibration", calibration, (data.bins, factors, look)),
            ("surprisal_by_horizon", surprisal_by_horizon, (data.by_horizon, factors, look)),
            ("trellis", trellis, (drawn, look)),
        ]
        for suffix in (*UNDATED, ".csv"):  # as an earlier config may have had it
            (folder / OF_ORDER[not left_to_right]).with_suffix(suffix).unlink(missing_ok=True)
        if left_to_right:
            figures.append(("acceptance", acceptance, (data.accepted, horizons, factors, look, drawn_tokens)))
        else:
            figures.append(("commit_order", commit_order, (commits, factors, look)))
        captions = draw_all(figures, points, folder, processes)
    write_captions(captions, folder / "captions")
    write_table(with_points(confidence_table(data.steps), points), folder / "confidence.csv")


def draw_comparison(table: pd.DataFrame, points: Points, style: Path, folder: Path, plots: Plots = DEFAULT) -> None:
    """Draw `comparison` into `folder`; `table` is of `compare`, `points` the swept values of each run.

    Each point has the colour and the panel that it has in the other figures.
    """
    pooled = {run: pool_seeds(dict(point)) for run, point in points.items()}
    chosen = [key if key != "seed" else None for key in (plots.colour, plots.panels)]
    with figure_style(style, plots):
        use_fonts_for(label_points(pooled).values())
        figure = ("comparison", comparison, (table, factors_of(pooled, *chosen), Look(framed=plots.titles)))
        write_captions(draw_all([figure], pooled, folder, processes=1), folder / "comparison")


def draw_own_numbers(
    table_files: Iterable[Path],
    points: Points,
    asked: Sequence[str],
    style: Path,
    folder: Path,
    left_to_right: bool = True,
    plots: Plots = DEFAULT,
) -> None:
    """Draw `own_numbers` into `folder`: those numbers of the tables that are not built in.

    `points` holds the swept values of each run by its number, `asked` what `divergence.numbers` names; where the tables
    have fewer, for the k largest logits were kept and tell nothing of them, the figure says so.
    """
    with figure_style(style, plots):
        with open_tables(table_files) as tables:
            own = {name: number for name, number in tables[0].numbers.items() if number.file is not None}
            sums = reduce_numbers(tables, group_points(points), list(own))
        use_fonts_for([*label_points(points).values(), *(number.label for number in own.values())])
        look = Look(POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT, plots.titles)
        factors = factors_of(points, plots.colour, plots.panels)
        figure = ("own_numbers", own_numbers, (sums, own, len(asked) - len(own), factors, look))
        write_captions(draw_all([figure], points, folder, processes=1), folder / "own_numbers")


def draw_groups(
    table: pd.DataFrame,
    name: str,
    points: Points,
    style: Path,
    folder: Path,
    left_to_right: bool = True,
    plots: Plots = DEFAULT,
) -> None:
    """Draw `group-{name}` into `folder`, from the table of `summarize_groups`."""
    rows = table[table["group"] == name]
    values = list(dict.fromkeys(rows["value"]))
    panels = {run: label for run, label in label_points(points).items() if run in set(rows["run"])}
    look = Look(POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT, plots.titles)
    with figure_style(style, plots):
        use_fonts_for([*panels.values(), *values, name])
        lines = swept_lines({value: value for value in values}, name)
        figure = (f"group-{name}", groups, (rows, name, panels, lines, look))
        write_captions(draw_all([figure], points, folder, processes=1), folder / f"group-{name}")


def draw_coherence(
    table_files: Iterable[Path], points: Points, style: Path, folder: Path, plots: Plots = DEFAULT
) -> None:
    """Draw `coherence` into `folder`, from the tables of the runs that show it, those of `points`."""
    point_of = group_points(points)
    with figure_style(style, plots):
        use_fonts_for(label_points(points).values())
        with open_tables(table_files) as tables:
            shown = [table for table in tables if table.run in points]
            found = coherence_by_point(progress(shown, "coherence", "run", len(shown)), point_of)
        factors = factors_of(
            points, *(key if key in swept_keys(points) else None for key in (plots.colour, plots.panels))
        )
        figure = ("coherence", coherence, (found, factors, Look(framed=plots.titles)))
        write_captions(draw_all([figure], points, folder, processes=1), folder / "coherence")


def draw_speed(
    results_files: Iterable[Path], points: Points, style: Path, folder: Path, plots: Plots = DEFAULT
) -> None:
    """Draw `speed` into `folder`; `points` holds the swept values of each run by its number."""
    point_of, labels = group_points(points), label_points(points)
    with figure_style(style, plots):
        use_fonts_for(labels.values())
        data = (*read_speeds(results_files, point_of), looks_of(points), labels, Look(framed=plots.titles))
        write_captions(draw_all([("speed", speed, data)], points, folder, processes=1), folder / "speed")


@contextmanager
def figure_style(style: Path, plots: Plots) -> Iterator[None]:
    """The style of figures, with what an experiment chooses of it. Raises UserError for a font that is not there."""
    with plt.style.context(style):
        if plots.font is not None:
            mpl.rcParams["font.family"] = [plots.font, *mpl.rcParams["font.family"]]
            try:
                findfont(FontProperties(family=plots.font), fallback_to_default=False)
            except ValueError:
                raise UserError(
                    f"plots.font is {plots.font!r}; no such font is installed here; name one that `fc-list` lists"
                ) from None
        if plots.columns == 2:
            mpl.rcParams["figure.figsize"] = (TWO_COLUMNS, mpl.rcParams["figure.figsize"][1])
        for key in SIZES:
            mpl.rcParams[key] *= plots.font_size / USUAL_SIZE
        yield


def draw_all(figures: Sequence[NamedFigure], points: Points, folder: Path, processes: int) -> dict[str, Caption]:
    """Draw figures with the style and the fonts that are set, each under its name in `folder`; gives their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        return {name: _draw(folder / name, figure, data, points) for name, figure, data in figures}
    # Forked, so that each has the style and the fonts that are set here.
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        drawings = {name: pool.submit(_draw, folder / name, figure, data, points) for name, figure, data in figures}
        return {name: drawing.result() for name, drawing in drawings.items()}


def _draw(stem: Path, figure: Callable[..., Sheet], data: tuple[Any, ...], points: Points) -> Caption:
    sheet = figure(*data)
    save(sheet.figure, stem)
    write_table(with_points(sheet.numbers, points), stem.with_suffix(".csv"))
    return Caption(sheet.title, sheet.finding, sheet.notes)


def with_points(table: pd.DataFrame, points: Points) -> pd.DataFrame:
    """A table with a column point as it is written: the first run of the point and its swept values before all else."""
    run = table.rename(columns={"point": "run"})
    return as_written(run[["run", *run.columns.drop("run")]], points)


def read_speeds(results_files: Iterable[Path], point_of: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sums of each sample, as `means_by` takes them: of the tokens that its forward passes committed (point, sample, n,
    tokens, tokens_n), and of its score where it has one (point, sample, n, score, score_n); `point_of` says as which
    point each run is drawn.
    """
    passes, scores, sample = [], [], -1
    files = list(results_files)
    for path in progress(files, "speed", "run", len(files)):
        point = point_of[run_number(path)]
        for output in read_outputs(path):
            sample += 1
            tokens = tokens_of_passes(output)
            passes.append((point, sample, len(tokens), float(sum(tokens)), len(tokens)))
            scores += [(point, sample, 1, float(output["score"]), 1)] if "score" in output else []
    return (
        pd.DataFrame(passes, columns=["point", "sample", "n", "tokens", "tokens_n"]),
        pd.DataFrame(scores, columns=["point", "sample", "n", "score", "score_n"]),
    )


def tokens_of_passes(output: Mapping[str, Any]) -> list[int]:
    """How many tokens each forward pass for a sample committed; a second pass of guidance commits none."""
    trace = output.get("trace")
    tokens = [1] * len(output["output_ids"]) if trace is None else [len(positions) for positions, _ in trace]
    return tokens + [0] * (output["nfe"] - len(tokens))


class TokenTexts:
    """The text of each token id that occurs in a run, read when it is asked for."""

    def __init__(self, candidates_files: Iterable[Path]) -> None:
        self._paths = {path.name.split(".")[0]: path for path in candidates_files}

    def of_run(self, run: str) -> dict[int, str]:
        """The texts by token id. Raises UserError where the candidates of the run can't be read."""
        return {int(token): text for token, text in read_token_texts(self._paths[run]).items()}
