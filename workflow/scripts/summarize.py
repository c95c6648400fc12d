"""Summarize the tables of an experiment, and keep its config beside them."""

from pathlib import Path

import yaml

from horizons.config import expand_runs, parse_experiment
from horizons.logs import stage_log
from horizons.recorded import require_recorded
from horizons.report.pages import describe_runs, readable_summary, table_page
from horizons.report.summary import summarize
from horizons.store.tables import write_table

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        results_files = [Path(path) for path in snakemake.input.results]
        source = f"config/{snakemake.wildcards.experiment}.yaml"
        experiment = parse_experiment(yaml.safe_load(snakemake.params.experiment), source)
        require_recorded(results_files, expand_runs(experiment), source)
        table_files = [Path(path) for path in snakemake.input.tables]
        candidates_files = [Path(path) for path in snakemake.input.candidates]
        summary = summarize(table_files, snakemake.params.points, results_files, candidates_files, snakemake.threads)
        write_table(summary, Path(snakemake.output.summary))
        Path(snakemake.output.experiment).write_text(snakemake.params.experiment, encoding="utf-8")
        pages = {
            snakemake.output.readable: table_page("Summary", readable_summary(summary)),
            snakemake.output.provenance: table_page("Config and environment", describe_runs(results_files)),
        }
        for path, page in pages.items():
            Path(path).write_text(page, encoding="utf-8")
