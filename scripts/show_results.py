"""Print where an experiment's results are, and its KL by horizon.

python scripts/show_results.py baseline [--report]

Nothing is printed that the experiment's config, as it is now, did not make. With --report it ends with status 1 where
there is nothing to report.
"""

import sys
from pathlib import Path

import pandas as pd

from horizons.config import Experiment, expand_runs, load_experiment, require_experiment
from horizons.errors import UserError
from horizons.recorded import difference, same_runs
from horizons.store.custody import SEAL, change_since
from horizons.store.tables import read_tables


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("show_results.py: which experiment? python scripts/show_results.py EXPERIMENT [--report]")
    name = sys.argv[1]
    try:
        experiment = load_experiment(require_experiment(name, Path("config")))
    except UserError as error:
        sys.exit(f"show_results.py: {error}")
    folder = Path("results") / name
    problem = not_made(experiment, folder)
    if "--report" in sys.argv[2:]:
        sys.exit(f"{problem}, then ask for the report again" if problem and experiment.generation.save_logits else None)
    if problem:
        print(problem)
    else:
        show_table(folder)


def not_made(experiment: Experiment, folder: Path) -> str | None:
    """Why there is no table to show: what is not there, or not as the experiment says, and how to make it."""
    runs = expand_runs(experiment)
    paths = [folder / f"{run.number}.json.gz" for run in runs]
    made = [path for path, run in zip(paths, runs, strict=True) if path.exists() and difference(path, run) is None]
    there = f"{folder}: {len(made)} of {len(runs)} runs"
    if not experiment.generation.save_logits:
        return f"{there}, without logits"
    summary = folder / "summary.csv"
    remedy = f"make it with: bash run.sh {folder.name}"
    if not summary.exists():
        return f"{there}, no summary yet; {remedy}"
    if len(made) < len(runs) and any(path.exists() and path not in made for path in paths):
        return f"{there} are of this config, and the summary is not; {remedy}"
    if not same_runs(experiment, folder / "experiment.yaml"):
        return f"{there}; the summary is of another config; {remedy}"
    if found := change_since(folder / SEAL, "summary", read=True):
        return f"{found}; the summary of {folder} no longer speaks of what is there; {remedy}"
    newer = [path for path in made if path.stat().st_mtime > summary.stat().st_mtime]
    if newer:
        return f"{there}; the summary is older than {newer[0]}; {remedy}"
    return None


def show_table(folder: Path) -> None:
    summary = read_tables([folder / "summary.csv"])
    swept = list(summary.columns[1 : list(summary.columns).index("horizon")])
    written = pd.read_csv(folder / "summary.csv", usecols=swept, dtype=str, keep_default_na=False)
    bounded = "matched_kl_mean" not in summary
    kl = "matched_kl_lower_bound" if bounded else "matched_kl"
    bound = "A lower bound of the KL" if bounded else "KL"
    print(f"{bound} from the final prediction, in nats: mean ± standard deviation")
    print("Over the positions of the text that have every horizon, so that horizons can be compared")
    for run, rows in summary.groupby("run"):
        point = ", ".join(f"{key} {written[key][rows.index[0]]}" for key in swept)
        print(f"\n{run}" + (f"  {point}" if point else "") + describe_score(rows["score"].iloc[0]))
        for horizon, mean, deviation in zip(rows["horizon"], rows[f"{kl}_mean"], rows[f"{kl}_std"], strict=True):
            print(f"  {describe_horizon(horizon, mean, deviation)}")
        print(describe_replay(rows.iloc[0]), end="")
    print(f"\nSummary: {folder / 'summary.csv'}")
    print(f"Plots:   {folder / 'plots'}")


def describe_horizon(horizon: int, mean: float, deviation: float) -> str:
    """The KL at a horizon, or that there is none, as where every text ended before it."""
    if mean != mean:
        return f"Horizon {horizon}: no predictions"
    return f"Horizon {horizon}: KL = {describe_value(mean)} ± {describe_value(deviation)}"


def describe_value(value: float) -> str:
    """A number to four places, or where they would all be 0 and it is not, in powers of ten."""
    return f"{value:.1e}" if 0 < value < 0.00005 else f"{value:.4f}"


def describe_replay(row: pd.Series) -> str:
    """What the model would have committed otherwise, nothing where no trace was replayed."""
    if pd.isna(row["other_tokens"]):
        return ""
    first = "" if pd.isna(row["first_other_token"]) else f" (first: {row['first_other_token']})"
    line = f"  Replay: {row['other_tokens']:.0f} tokens the model would not have committed{first}, and "
    line += f"{row['other_tokens_near_ties']:.0f} near ties"
    if not pd.isna(row["other_positions"]):
        line += f"; other positions at {row['other_positions']:.0f} timesteps"
    return f"{line}\n"


def describe_score(score: float) -> str:
    """The task score, nothing where the prompts have no labels."""
    return "" if score != score else f"  score {score:.2f}"


if __name__ == "__main__":
    main()
