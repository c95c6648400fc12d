"""Draw a user's own numbers by how far ahead a prediction was made."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots
            from horizons.report.plots import draw_own_numbers
            from horizons.store.custody import check_inputs

        tables = [Path(path) for path in snakemake.input.tables]
        check_inputs(tables)
        draw_own_numbers(
            tables,
            snakemake.params.points,
            snakemake.params.numbers,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
            snakemake.params.left_to_right,
            Plots.model_validate(snakemake.params.plots),
        )
