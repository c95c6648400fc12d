"""Compute some predictions of one run again, and measure how far they are from themselves."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        from horizons.config import Noise
        from horizons.devices import claim_devices

        claim_devices(snakemake.resources.get("gpu", 0), snakemake.params.device)

        with loading():
            import torch

            from horizons.noise_floor import write_noise

        torch.set_num_threads(snakemake.threads)
        torch.set_flush_denormal(True)  # as where the run was generated
        write_noise(
            Path(snakemake.input.results),
            Path(snakemake.input.validation),
            Noise(**snakemake.params.noise),
            Path(snakemake.output.table),
            Path(snakemake.output.record),
        )
