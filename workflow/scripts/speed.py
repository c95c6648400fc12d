"""Draw what speed costs in an experiment whose runs differ in speed."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots
            from horizons.report.plots import draw_speed
            from horizons.store.custody import check_inputs

        results = [Path(path) for path in snakemake.input.results]
        check_inputs(results)
        draw_speed(
            results,
            snakemake.params.points,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
            Plots.model_validate(snakemake.params.plots),
        )
