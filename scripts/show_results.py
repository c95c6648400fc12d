"""Print where an experiment's results are, and its KL by horizon.

python scripts/show_results.py baseline
"""

import sys
from pathlib import Path

from horizons.tables import read_tables


def main() -> None:
    folder = Path("results") / sys.argv[1]
    if not (folder / "summary.csv").exists():
        print(f"{folder}: {len(list(folder.glob('*.json.gz')))} runs, without logits")
        return
    summary = read_tables([folder / "summary.csv"])
    swept = list(summary.columns[1 : list(summary.columns).index("horizon")])
    print("KL from the final prediction, in nats, mean ± standard deviation over positions before the end of the text")
    for run, rows in summary.groupby("run"):
        point = ", ".join(f"{key} {rows[key].iloc[0]}" for key in swept)
        print(f"\n{run}" + (f"  {point}" if point else "") + describe_score(rows["score"].iloc[0]))
        for row in rows.itertuples():
            print(f"  Horizon {row.horizon}: KL = {row.kl_mean:.4f} ± {row.kl_std:.4f}")
    print(f"\nSummary: {folder / 'summary.csv'}")
    print(f"Plots:   {folder / 'plots'}")


def describe_score(score: float) -> str:
    """The task score, nothing where the prompts have no labels."""
    return "" if score != score else f"  score {score:.2f}"


if __name__ == "__main__":
    main()
