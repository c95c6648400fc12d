"""Draw the figures of an experiment."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            from horizons.config import Plots
            from horizons.report.plots import draw
            from horizons.store.custody import check_inputs

        tables, candidates = ([Path(path) for path in snakemake.input[name]] for name in ("tables", "candidates"))
        check_inputs([*tables, *candidates])
        draw(
            tables,
            snakemake.params.points,
            candidates,
            snakemake.params.samples,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
            snakemake.threads,
            snakemake.params.left_to_right,
            Plots.model_validate(snakemake.params.plots),
            snakemake.params.drawn_tokens,
        )
