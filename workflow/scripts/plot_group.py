"""Draw one way to divide the entries of an experiment."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots
            from horizons.report.groups import read_groups
            from horizons.report.plots import draw_groups
            from horizons.store.custody import check_inputs

        table = Path(snakemake.input.table)
        check_inputs([table])
        draw_groups(
            read_groups(table),
            snakemake.wildcards.group,
            snakemake.params.points,
            Path(snakemake.input.style),
            Path(snakemake.output.png).parent,
            snakemake.params.left_to_right,
            Plots.model_validate(snakemake.params.plots),
        )
