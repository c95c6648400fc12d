"""Statistics of tables against numpy's."""

import math

import numpy as np
import pandas as pd
import pytest

from horizons.columns import NUMBERS, table_columns
from horizons.report.labels import as_written
from horizons.report.summary import one_row_a_horizon, statistics, summarize
from horizons.store.files import read_results, write_results
from horizons.store.tables import read_tables, write_table
from made_up import write_tables
from show_results import describe_horizon, describe_replay, describe_value


def table_of(runs=("00000", "00001"), samples=4, positions=6):
    rng = np.random.default_rng(0)
    rows = [
        {
            "run": run,
            "sample_idx": s,
            "question_id": f"q{s}",
            "relative_position": p,
            "horizon": h,
            "timestep": p + 1 - h,
        }
        for run in runs
        for s in range(samples)
        for p in range(positions)
        for h in (1, 2)
        if p >= h - 1
    ]
    table = pd.DataFrame(rows).assign(after_eos=False, special="text", top1_token_id=0, final_token_id=0)
    table["matched"] = table["relative_position"] > 0
    return table.assign(**{number: rng.random(len(table)) for number in NUMBERS})[table_columns(bounded=False)]


@pytest.fixture
def candidates_files(tmp_path):
    """Choices of margin 1 but for one near tie before the end and one after it, in the first run."""
    paths = [tmp_path / "00000.candidates.json.gz", tmp_path / "00001.candidates.json.gz"]
    for path in paths:
        margins = [[1.0] * 6 for _ in range(4)]
        if path == paths[0]:
            margins[2][4:] = [1e-6, 1e-6]
        write_results(path, {"run": path.name[:5], "choice_margins": margins})
    return paths


@pytest.fixture
def results_files(tmp_path):
    paths = [tmp_path / "00000.json.gz", tmp_path / "00001.json.gz"]
    for path, score in zip(paths, (0.5, None), strict=True):
        config = {"generation": {"temperature": 0.0, "cfg_scale": 0.0}}
        results = {"config": config, "environment": {"model": {"dtype": "float32"}}, "metrics": {"score": score}}
        results["outputs"] = [{"nfe": 6, "output_ids": [5] * 6}] * 4
        write_results(path, results)
    return paths


def of_all(summary):
    """The rows of all positions of the text."""
    return summary[summary["entries"] == "all"].reset_index(drop=True)


def test_speed_counts_what_was_committed_and_every_forward_pass(tmp_path, results_files, candidates_files):
    """One sample commits three tokens in two passes, another, which stopped at its end, three in three."""
    traces = [[[[1, 2], [5, 5]], [[0], [5]]], [[[0], [5]], [[], []], [[2, 3], [3, 5]]]]
    outputs = [{"nfe": len(trace), "output_ids": [5, 0, 3, 5], "trace": trace} for trace in traces]
    results = read_results(results_files[0])
    write_results(results_files[0], results | {"outputs": outputs})
    points = {"00000": {}, "00001": {}}
    summary = of_all(summarize(write_tables(tmp_path, table_of()), points, results_files, candidates_files))
    assert summary["forward_passes_mean"].tolist() == [2.5, 2.5, 6, 6]
    assert summary["tokens_per_pass"].tolist() == [1.2, 1.2, 1, 1]


def summary_of_replay(tmp_path, results_files, candidates_files, audits, **generation):
    """The rows of two runs, the first of them a replay with these audits."""
    results = read_results(results_files[0])
    results["config"]["generation"] |= {"tokens": "replay"} | generation
    trace = [[[at], [5]] for at in range(6)]
    results["outputs"] = [
        {"question_id": f"q{sample}", "nfe": 6, "output_ids": [5] * 6, "trace": trace, "replay": audit}
        for sample, audit in enumerate(audits)
    ]
    write_results(results_files[0], results)
    points = {"00000": {}, "00001": {}}
    write_table(
        summarize(write_tables(tmp_path, table_of()), points, results_files, candidates_files), tmp_path / "summary.csv"
    )
    return of_all(read_tables([tmp_path / "summary.csv"]))


COUNTS = ["other_tokens", "other_tokens_near_ties", "other_positions"]


def test_a_replay_is_summed_up_and_the_other_runs_have_nothing(tmp_path, results_files, candidates_files):
    """Noise is 0.00002 in float32; a gap of null is infinite."""
    audits = [
        {"other_tokens": [[0, 0, 9, 0.00001]], "other_positions": [0, 3]},
        {"other_tokens": [], "other_positions": []},
        {"other_tokens": [[2, 1, 9, 0.00002], [3, 4, 9, None], [5, 5, 9, 0.5]], "other_positions": [1]},
        {"other_tokens": [[0, 0, 9, 2.0]], "other_positions": []},
    ]
    summary = of_all(summary_of_replay(tmp_path, results_files, candidates_files, audits))
    assert summary[COUNTS].to_numpy().tolist()[:2] == [[3, 2, 3]] * 2
    assert summary["first_other_token"].tolist()[:2] == ["q2: timestep 3, position 4"] * 2
    assert summary[[*COUNTS, "first_other_token"]].iloc[2:].isna().all(axis=None)
    assert describe_replay(summary.iloc[0]) == (
        "  Replay: 3 tokens the model would not have committed (first: q2: timestep 3, position 4), and 2 near ties; "
        "other positions at 3 timesteps\n"
    )
    assert describe_replay(summary.iloc[2]) == ""


def test_a_replay_in_which_all_is_the_model_s_own_says_so(tmp_path, results_files, candidates_files):
    summary = summary_of_replay(tmp_path, results_files, candidates_files, [{"other_tokens": []}] * 4)
    assert (
        describe_replay(summary.iloc[0]) == "  Replay: 0 tokens the model would not have committed, and 0 near ties\n"
    )


def test_guidance_makes_the_noise_of_a_replay_larger(tmp_path, results_files, candidates_files):
    """A guided logit is (s + 1) c - s u: each of c and u may be off."""
    audits = [{"other_tokens": [[0, 0, 9, 0.00007], [1, 1, 9, 0.00009]]}] * 4
    summary = summary_of_replay(tmp_path, results_files, candidates_files, audits, cfg_scale=1.5)
    assert summary[COUNTS[:2]].iloc[0].tolist() == [4, 4]


def test_each_run_and_horizon_has_the_statistics_of_its_entries(tmp_path, results_files, candidates_files):
    table = table_of()
    table.loc[table["relative_position"] == 5, "after_eos"] = True
    points = {"00000": {"seed": 1}, "00001": {"seed": 2}}
    summary = of_all(summarize(write_tables(tmp_path, table), points, results_files, candidates_files))
    assert summary[["run", "seed", "horizon"]].to_numpy().tolist() == [
        ["00000", 1, 1],
        ["00000", 1, 2],
        ["00001", 2, 1],
        ["00001", 2, 2],
    ]
    assert summary["n"].tolist() == [20, 16, 20, 16]
    assert summary["after_eos"].tolist() == [4, 4, 4, 4]
    assert summary["score"].tolist()[:2] == [0.5, 0.5]
    assert summary["near_ties"].tolist() == [1, 1, 0, 0]
    assert summary["score"].isna().tolist() == [False, False, True, True]
    kept = table[(table["run"] == "00001") & (table["horizon"] == 2) & ~table["after_eos"]]["js"]
    last = summary.iloc[3]
    assert last["js_mean"] == pytest.approx(kept.mean())
    assert last["js_std"] == pytest.approx(kept.std(ddof=0))
    assert last["js_median"] == pytest.approx(kept.median())
    assert last["js_p05"] == pytest.approx(kept.quantile(0.05))
    assert last["js_p95"] == pytest.approx(kept.quantile(0.95))
    assert last[["js_mean_low", "js_mean_high"]].isna().all()  # of four samples there is no interval


def test_the_rows_of_a_horizon_are_of_matched_positions_of_all_and_of_special_tokens(
    tmp_path, results_files, candidates_files
):
    table = table_of()
    table.loc[table["relative_position"] == 3, "special"] = "end_of_text"
    table.loc[table["relative_position"] == 4, "special"] = "other"
    table.loc[table["relative_position"] == 5, "after_eos"] = True
    points = {"00000": {}, "00001": {}}
    summary = summarize(write_tables(tmp_path, table), points, results_files, candidates_files)
    assert summary["entries"].tolist() == ["matched", "all", "special"] * 4
    first = summary.iloc[:6].set_index(["horizon", "entries"])
    assert first["n"].to_dict() == {
        **{(1, "matched"): 8, (1, "all"): 12, (1, "special"): 8},
        **{(2, "matched"): 8, (2, "all"): 8, (2, "special"): 8},
    }
    text = table[(table["run"] == "00000") & (table["special"] == "text") & ~table["after_eos"]]
    for entries, kept in (("matched", text[text["matched"]]), ("all", text)):
        expected = kept[kept["horizon"] == 1]["entropy"].mean()
        assert first.loc[(1, entries), "entropy_mean"] == pytest.approx(expected)


def test_swept_values_are_written_as_they_were(tmp_path):
    points = {"00000": {"generation.temperature": 0.0}, "00001": {"generation.temperature": 1e-05}}
    table = pd.DataFrame({"run": ["00000", "00001"], "generation.temperature": [0.0, 1e-05], "kl": [0.0, 1.0]})
    write_table(as_written(table, points), tmp_path / "summary.csv")
    assert (tmp_path / "summary.csv").read_text() == ("run,generation.temperature,kl\n00000,0.0,0\n00001,1e-05,1\n")


def test_a_small_number_is_printed_as_one():
    assert [describe_value(value) for value in (0.0, 4e-7, 0.00004, 0.00006, 1.67251)] == [
        *("0.0000", "4.0e-07", "4.0e-05", "0.0001", "1.6725")
    ]
    assert describe_horizon(2, 4e-7, 0.5) == "Horizon 2: KL = 4.0e-07 ± 0.5000"


def test_infinite_values_are_counted_and_make_the_mean_infinite():
    found = statistics(np.array([1.0, 2.0, math.inf, 3.0]))
    assert found["infinite"] == 1
    assert found["mean"] == math.inf
    assert math.isnan(found["std"])
    assert (found["p05"], found["median"], found["p95"]) == (1.0, 2.0, math.inf)


def test_a_recorded_horizon_without_a_row_has_a_row_of_nothing(tmp_path, results_files, candidates_files):
    """As where every text ends before the longest horizon can be recorded."""
    content = read_results(results_files[0])
    content["config"]["generation"]["horizons"] = [1, 2, 8]
    write_results(results_files[0], content)
    points = {"00000": {}, "00001": {}}
    summary = of_all(summarize(write_tables(tmp_path, table_of()), points, results_files, candidates_files))
    assert summary[["run", "horizon"]].to_numpy().tolist()[:3] == [["00000", 1], ["00000", 2], ["00000", 8]]
    row = summary.iloc[2]
    assert (row["num_samples"], row["n"], row["after_eos"], row["kl_infinite"]) == (0, 0, 0, 0)
    assert row[["kl_mean", "kl_std", "kl_mean_low", "kl_effective_samples"]].isna().all()
    assert "Horizon 8: no predictions" in describe_horizon(8, row["kl_mean"], row["kl_std"])


def test_what_a_final_prediction_is_by_definition_has_no_uncertainty(tmp_path, results_files, candidates_files):
    table = table_of(samples=6)
    table.loc[table["horizon"] == 1, ["kl", "kl_reverse", "js"]] = 0.0
    table.loc[table["horizon"] == 1, ["top1_agreement", "top5_agreement"]] = 1.0
    for path in candidates_files:
        write_results(path, {"run": path.name[:5], "choice_margins": [[1.0] * 6] * 6})
    points = {"00000": {}, "00001": {}}
    final = summarize(write_tables(tmp_path, table), points, results_files, candidates_files).iloc[0]
    assert final[["kl_mean_low", "kl_mean_high", "top1_agreement_mean_low"]].tolist() == [0.0, 0.0, 1.0]
    assert pd.isna(final["kl_effective_samples"])
    assert final["entropy_effective_samples"] == 6


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_how_much_is_read_at_once_changes_nothing(tmp_path, monkeypatch, results_files, candidates_files, at_once):
    paths, points = write_tables(tmp_path, table_of()), {"00000": {}, "00001": {}}
    expected = summarize(paths, points, results_files, candidates_files)
    monkeypatch.setattr("horizons.report.tables.READ_AT_ONCE", at_once)
    pd.testing.assert_frame_equal(summarize(paths, points, results_files, candidates_files), expected)
    pd.testing.assert_frame_equal(summarize(paths, points, results_files, candidates_files, processes=2), expected)


def test_a_table_comes_back_from_csv_as_it_was(tmp_path):
    table = table_of()
    table.loc[0, "kl"], table.loc[0, "question_id"] = math.inf, 'NA, "x"\n<b>'
    write_table(table, tmp_path / "t.csv")
    back = read_tables([tmp_path / "t.csv"])
    pd.testing.assert_frame_equal(back, table, rtol=1e-8, check_dtype=False)
    assert back["run"][0] == "00000"


def test_the_written_summary_has_a_row_for_each_run_and_horizon(tmp_path, results_files, candidates_files):
    points = {"00000": {}, "00001": {}}
    long = summarize(write_tables(tmp_path, table_of()), points, results_files, candidates_files)
    wide = one_row_a_horizon(long)
    assert not wide.duplicated(["run", "horizon"]).any()
    for (run, horizon, entries), rows in long.groupby(["run", "horizon", "entries"]):
        [found] = wide[(wide["run"] == run) & (wide["horizon"] == horizon)].to_dict("records")
        before = "" if entries == "all" else f"{entries}_"
        for name in ("n", "num_samples", "perplexity", "kl_mean", "kl_mean_low", "surprisal_std"):
            pd.testing.assert_series_equal(pd.Series([found[before + name]]), pd.Series(rows[name].tolist()))
