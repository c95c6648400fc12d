"""One table of all runs, with their swept values and the samples' scores, for pandas and seaborn."""

import pandas as pd
import pytest

import horizons
from horizons.errors import UserError
from horizons.store.files import read_results, write_results
from made_up import make_table, write_run, write_tables


@pytest.fixture
def results(tmp_path):
    """The folder of an experiment of two runs with four samples each, one of which has no score."""
    folder = tmp_path / "mine"
    table = make_table(runs=2)
    table["final_token_rank"] = table["final_token_rank"].round()
    write_tables(folder, table)
    for number, run in enumerate(("00000", "00001")):
        outputs = [{"task": "copy", "score": float(sample == number)} for sample in range(3)] + [{}]
        path, _ = write_run(folder, table[table["run"] == run], ["a", "b", "c", "d", "e"], outputs)
        content = read_results(path)
        content["point"] = {"generation.temperature": number / 2, "generation.horizons": [1, number + 2]}
        write_results(path, content)
    return tmp_path


def test_the_tables_of_all_runs_are_joined_with_what_their_runs_and_samples_are(results):
    found = horizons.load_table("mine", results)
    paths = [results / "mine" / f"0000{run}.divergence.csv" for run in (0, 1)]
    expected = pd.concat([pd.read_csv(path, dtype={"run": str}) for path in paths], ignore_index=True)
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)
    added = found.drop(columns=expected.columns)
    assert list(added) == ["generation.temperature", "generation.horizons", "task", "score"]
    second = found["run"] == "00001"
    assert set(found["generation.temperature"][second]) == {0.5}
    assert set(found["generation.horizons"]) == {"[1, 2]", "[1, 3]"}
    assert found[second].groupby("sample_idx")["score"].first().fillna(-1).tolist() == [0, 1, 0, -1]
    assert found["task"].isna().sum() == (found["sample_idx"] == 3).sum()


def test_only_the_columns_asked_for_are_read_in_their_order(results):
    found = horizons.load_table("mine", results, columns=["horizon", "kl"])
    assert list(found)[:2] == ["horizon", "kl"]
    assert "sample_idx" not in found
    assert found["kl"].tolist() == horizons.load_table("mine", results)["kl"].tolist()
    with pytest.raises(UserError, match=r"00000.divergence.csv: has no column 'klx'; it has run, sample_idx"):
        horizons.load_table("mine", results, columns=["klx"])


def test_an_experiment_without_tables_is_named_with_what_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"other: has no divergence tables; make them with: bash run.sh other"):
        horizons.load_table("other", tmp_path)


def test_the_library_has_the_names_it_shows():
    assert {"load_table", "open_triple", "validate_triple"} <= set(dir(horizons))
    for name in horizons.__all__:
        assert callable(getattr(horizons, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        horizons.nothing  # noqa: B018
