"""Draw whether early and late predictions of an experiment agree with each other."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots
            from horizons.report.plots import draw_coherence
            from horizons.store.custody import check_inputs

        tables = [Path(path) for path in snakemake.input.tables]
        check_inputs(tables)
        draw_coherence(
            tables,
            snakemake.params.points,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
            Plots.model_validate(snakemake.params.plots),
        )
