"""Collect the five most probable tokens of every entry of one run."""

from pathlib import Path

from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        import torch

        from horizons.candidates import collect_candidates
        from horizons.models import load_tokenizer
        from horizons.store.files import read_results, write_results

        torch.set_num_threads(snakemake.threads)
        results_file = Path(snakemake.input.results)
        results = read_results(results_file)
        tokenizer = load_tokenizer(
            results["config"]["model"]["name"],
            results["environment"]["model"]["revision"],
            results["config"]["model"]["trust_remote_code"],
        )
        write_results(Path(snakemake.output.candidates), collect_candidates(results_file, tokenizer))
