"""Print where an experiment's results are, and its KL by horizon.

python scripts/show_results.py baseline
"""

import sys
from pathlib import Path

from horizons.store.tables import read_tables


def main() -> None:
    folder = Path("results") / sys.argv[1]
    if not (folder / "summary.csv").exists():
        print(f"{folder}: {len(list(folder.glob('*.json.gz')))} runs, without logits")
        return
    summary = read_tables([folder / "summary.csv"])
    swept = list(summary.columns[1 : list(summary.columns).index("horizon")])
    kl = next(column.removesuffix("_mean") for column in ("kl_mean", "kl_lower_bound_mean") if column in summary)
    bound = "A lower bound of the KL" if kl != "kl" else "KL"
    print(f"{bound} from the final prediction, in nats, over the positions before the end of the text")
    print("Mean ± standard deviation")
    for run, rows in summary.groupby("run"):
        point = ", ".join(f"{key} {rows[key].iloc[0]}" for key in swept)
        print(f"\n{run}" + (f"  {point}" if point else "") + describe_score(rows["score"].iloc[0]))
        for horizon, mean, deviation in zip(rows["horizon"], rows[f"{kl}_mean"], rows[f"{kl}_std"], strict=True):
            print(f"  Horizon {horizon}: KL = {mean:.4f} ± {deviation:.4f}")
    print(f"\nSummary: {folder / 'summary.csv'}")
    print(f"Plots:   {folder / 'plots'}")


def describe_score(score: float) -> str:
    """The task score, nothing where the prompts have no labels."""
    return "" if score != score else f"  score {score:.2f}"


if __name__ == "__main__":
    main()
