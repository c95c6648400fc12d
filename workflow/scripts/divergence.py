"""Compare every prediction of one run with the final one of its position."""

from pathlib import Path

from horizons.devices import claim_devices
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        claim_devices(snakemake.resources.get("gpu", 0), snakemake.params.device)

        import torch

        from horizons.divergence import measure_divergence
        from horizons.report.tables import write_table

        torch.set_num_threads(snakemake.threads)
        table = measure_divergence(snakemake.input.results, snakemake.params.device)
        write_table(table, Path(snakemake.output.table))
