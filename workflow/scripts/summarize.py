"""Summarize the tables of an experiment, and keep its config beside them, and what all of it was made of."""

from pathlib import Path

from horizons.loading import loading
from horizons.logs import stage_log

if __name__ == "__main__":
    with stage_log(snakemake.log[0]):
        with loading():
            import yaml

            from horizons.config import expand_runs, parse_experiment
            from horizons.recorded import require_recorded
            from horizons.report.labels import as_written
            from horizons.report.pages import describe_runs, readable_summary, table_page
            from horizons.report.summary import one_row_a_horizon, summarize
            from horizons.store.custody import TABLES, check_inputs, own_numbers, write_record
            from horizons.store.files import fingerprint, write_text
            from horizons.store.tables import write_table

        tables, results, candidates, noise, pages = (
            [Path(path) for path in snakemake.input[name]]
            for name in ("tables", "results", "candidates", "noise", "pages")
        )
        summary_file, experiment_file, readable, provenance, seal = (
            Path(snakemake.output[name]) for name in ("summary", "experiment", "readable", "provenance", "seal")
        )
        source = f"config/{snakemake.wildcards.experiment}.yaml"
        experiment = parse_experiment(yaml.safe_load(snakemake.params.experiment), source)
        require_recorded(results, expand_runs(experiment), source)
        tables_made = [page for page in pages if page.parent == seal.parent and page.name in TABLES]
        made_of = check_inputs([*tables, *results, *candidates, *noise, *tables_made])
        made_of |= {page: fingerprint(page) for page in pages if page not in tables_made}
        points = snakemake.params.points
        summary = as_written(summarize(tables, points, results, candidates, snakemake.threads, noise), points)
        write_table(one_row_a_horizon(summary), summary_file)
        write_text(experiment_file, snakemake.params.experiment)
        write_text(readable, table_page("Summary", readable_summary(summary, own_numbers(tables[0]))))
        write_text(provenance, table_page("Config and environment", describe_runs(results)))
        write_record(seal, "summary", [summary_file, experiment_file, readable, provenance], made_of)
