"""Compare every prediction of one run with the final one of its position, and keep its most probable tokens."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        from horizons.devices import claim_devices

        claim_devices(snakemake.resources.get("gpu", 0), snakemake.params.device)

        with loading():
            import torch

            from horizons.divergence import write_divergence

        torch.set_num_threads(snakemake.threads)
        write_divergence(
            Path(snakemake.input.results),
            Path(snakemake.input.validation),
            Path(snakemake.output.table),
            Path(snakemake.output.candidates),
            Path(snakemake.output.record),
            snakemake.params.device,
            snakemake.params.numbers,
        )
