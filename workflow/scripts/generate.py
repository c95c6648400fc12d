"""Generate one run and write its triple."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        from horizons.config import Run
        from horizons.devices import claim_devices
        from horizons.store.aside import forget_aside, take_back

        run = Run.from_dict(snakemake.params.run)
        claim_devices(snakemake.resources.get("gpu", 0), run.config.model.device)

        with loading():
            import torch

            from horizons.run import generate_run

        torch.set_num_threads(snakemake.threads)
        # Sharp attention leaves numbers below 1e-38, with which a CPU is several times slower; they become 0.
        torch.set_flush_denormal(True)
        results_file = Path(snakemake.output.results)
        take_back(results_file)
        generate_run(run, results_file, snakemake.params.numbers)
        forget_aside(results_file)
