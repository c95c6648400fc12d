"""Load and analyze saved logits: the Python API and the command of the user's guide.

python utils/load_saved_logits.py results/baseline/00000.json.gz
"""

import argparse
import signal
import sys
from pathlib import Path

from horizons.errors import UserError
from horizons.guide import (
    SavedEntry,
    SavedLogits,
    analyze_divergence,
    calculate_js_divergence,
    calculate_kl_divergence,
    calculate_top_k_agreement,
    export_pt,
    get_predictions_for_position,
    load_entries,
    print_divergence_summary,
)
from horizons.store.reader import open_triple

__all__ = [
    "analyze_divergence",
    "calculate_js_divergence",
    "calculate_kl_divergence",
    "calculate_top_k_agreement",
    "get_predictions_for_position",
    "load_logits_data",
    "load_sample_logits",
    "print_divergence_summary",
]


def load_logits_data(results_file: str) -> SavedLogits:
    """All entries of a run as mutable mappings; `entry["logits"]` (vocab_size,) float32 is read when it is asked for.

    Raises UserError where the files are missing or can't be read.
    """
    return load_entries(results_file)


def load_sample_logits(results_file: str, sample_idx: int) -> list[SavedEntry]:
    """The entries of one sample."""
    return [entry for entry in load_entries(results_file) if entry["sample_idx"] == sample_idx]


def main() -> None:
    """Print the divergence of one sample."""
    parser = argparse.ArgumentParser(description="How far are a sample's early predictions from its latest ones?")
    parser.add_argument("results_file", metavar="FILE", help="results of a run, such as results/baseline/00000.json.gz")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="which sample, from 0 (default: 0)")
    parser.add_argument("--verbose", action="store_true", help="print every position, too")
    parser.add_argument("--to-pt", type=Path, metavar="OUT", help="write all entries for torch.load instead")
    parser.add_argument("--verify", action="store_true", help="compare the three files with their checksums instead")
    arguments = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it quietly
    try:
        if arguments.verify:
            open_triple(arguments.results_file, verify=True)
            print(f"{arguments.results_file}: all three files are as they were written")
            return
        if arguments.to_pt:
            export_pt(arguments.results_file, arguments.to_pt)
            return
        logits_data = load_logits_data(arguments.results_file)
        stats = analyze_divergence(logits_data, arguments.sample, verbose=arguments.verbose)
    except (UserError, OSError) as error:
        sys.exit(str(error))
    except ValueError as error:
        sys.exit(f"{arguments.results_file}: {error}")
    print_divergence_summary(stats)
    samples = len({entry["sample_idx"] for entry in logits_data})
    print(
        "Each position's earliest prediction against its latest; summary.csv compares every horizon with the final one."
    )
    print(f"Sample {arguments.sample} of {samples}; --sample N shows another, from 0 to {samples - 1}")


if __name__ == "__main__":
    main()
