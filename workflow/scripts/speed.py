"""Draw what speed costs in an experiment whose runs differ in speed."""

from pathlib import Path

from horizons.logs import stage_log
from horizons.report.plots import draw_speed

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        draw_speed(
            [Path(path) for path in snakemake.input.results],
            snakemake.params.points,
            Path(snakemake.input.style),
            Path(snakemake.output[0]).parent,
        )
