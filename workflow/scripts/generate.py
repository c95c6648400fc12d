"""Generate one run and write its triple."""

from pathlib import Path

from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        import torch

        from horizons.config import Run
        from horizons.run import generate_run

        torch.set_num_threads(snakemake.threads)
        # Sharp attention leaves numbers below 1e-38, with which a CPU is several times slower; they become 0.
        torch.set_flush_denormal(True)
        generate_run(Run.from_dict(snakemake.params.run), Path(snakemake.output.results))
