"""What several stages ask of an experiment's config, and how a figure is declared."""

import os
import re
import signal
import sys
import threading
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from horizons.config import (
    Experiment,
    Model,
    Run,
    dump_experiment,
    expand_runs,
    load_experiment,
    parse_selection,
    require_experiment,
)
from horizons.errors import UserError
from horizons.logs import INTERRUPTED
from horizons.models.facts import checkpoint_files, require_model_folder
from horizons.numbers.own import changed_numbers, number_file, require_number_files
from horizons.planning import memory_mb, missing_room, require_blocks, run_minutes
from horizons.prompts import compares_speed, local_path, require_fields, require_samples, shares_prompts
from horizons.recorded import difference, same_runs
from horizons.store.aside import set_aside
from horizons.store.custody import SEAL, NoRecord, change_since, own_numbers, read_sealed, record_of, stage_of

CONFIG = Path("config")


# On a cluster where the workflow was started: each takes seconds, once an experiment, and reads tables alone.
localrules:
    plot,
    plot_any_order,
    own_numbers,
    groups,
    plot_group,
    speed,
    explorer,
    compare,
    summarize,
    parquet_groups,
    parquet_comparison,
    parquet_summary,


ASKED_FOR = set()  # experiments
MADE_WITH_ANOTHER_CONFIG = {}  # results files: in what it differs
WAS_INTERRUPTED = []  # the signals of Ctrl-C
NOT_WHOLE = {}  # files that are made anew: what is wrong with them, or with what they were made of


@cache
def experiment_of(experiment: str) -> Experiment:
    """The content of `config/{experiment}.yaml`, which is read when a target first asks for it."""
    ASKED_FOR.add(experiment)
    try:
        path = require_experiment(experiment, CONFIG)
        found = load_experiment(path)
        if workflow.is_main_process:  # and not in each job's own Snakemake, which would read all prompts again
            require_samples(found, str(path))
            require_blocks(found, str(path))
            for run in expand_runs(found):
                require_model_folder(run.config.model, str(path))
            require_fields(found, str(path))
            require_number_files(found.divergence.numbers, str(path))
    except UserError as error:
        raise SystemExit(str(error)) from None
    return found


@cache
def runs_of(experiment: str) -> dict[str, Run]:
    """The runs of an experiment by number."""
    return {run.number: run for run in expand_runs(experiment_of(experiment))}


@cache
def samples_of(experiment: str) -> list[str]:
    """The question ids of the samples whose predictions are drawn token by token."""
    return require_samples(experiment_of(experiment), experiment)


def run_of(wildcards) -> Run:
    """The run that a job's wildcards name."""
    runs = runs_of(wildcards.experiment)
    if wildcards.run not in runs:
        raise SystemExit(f"{wildcards.experiment} has no run {wildcards.run}; its last is {max(runs)}")
    return runs[wildcards.run]


def prompts_of(wildcards, save_logits: bool) -> str:
    """The prompt file of a run, for the rule that makes it; for the other rule a file that does not exist.

    Two rules make `{run}.json.gz`, with the logits and without. Snakemake takes the one whose inputs are there, so that
    an experiment's own config decides, and no other experiment's is read.
    """
    settings = run_of(wildcards).config
    if settings.generation.save_logits != save_logits:
        return local(f"config/{wildcards.experiment}.yaml with generation.save_logits: {str(save_logits).lower()}")
    redo_if_made_with_another_config(wildcards)
    return local(str(local_path(settings.dataset.path)))


def redo_if_made_with_another_config(wildcards) -> None:
    """Have Snakemake make results anew that are there but were not made with what the experiment says.

    Snakemake knows of a changed parameter where it made the file itself. Of results that were copied into the folder it
    knows nothing, so the file is asked, and treated as one named after --forcerun. What is kept elsewhere is compared
    when it is summarized.
    """
    path = f"results/{wildcards.experiment}/{wildcards.run}.json.gz"
    if looks_at_results() and (found := difference(Path(path), run_of(wildcards))):
        MADE_WITH_ANOTHER_CONFIG[path] = found
        workflow.dag.forcefiles.add(path)


def validation_of(wildcards) -> str:
    """The validation report of a run; a table that is not whole is made anew, and a report that is not, for it."""
    stem = f"results/{wildcards.experiment}/{wildcards.run}"
    table, validation = Path(f"{stem}.divergence.csv"), Path(f"{stem}.validation.json")
    if looks_at_results():
        if table.exists() and (found := change_of_table(table, experiment_of(wildcards.experiment))):
            make_anew(table, found)
        if validation.exists() and (not table.exists() or str(table) in NOT_WHOLE):
            try:
                read_sealed(validation)
            except NoRecord as error:
                make_anew(validation, error.problem)
    return expand(pattern_of(rules.validate.output.report), **wildcards)[0]


def validation_for_noise(wildcards) -> str:
    """The validation report of a run whose noise is measured; a table of noise that is not whole is made anew."""
    if experiment_of(wildcards.experiment).noise is None:
        raise SystemExit(f"config/{wildcards.experiment}.yaml: has no section noise, so none is measured")
    make_anew_unless_whole(Path(f"results/{wildcards.experiment}/{wildcards.run}.noise.csv"))
    return expand(pattern_of(rules.validate.output.report), **wildcards)[0]


def noise_devices_of(wildcards) -> set[str]:
    """The devices that a run's model is asked for on: where it was generated, and where its noise is measured."""
    device = run_of(wildcards).config.model.device
    return {device, experiment_of(wildcards.experiment).noise.device or device}


def noise_of(experiment: str) -> list[str]:
    """The tables of noise of all runs, of an experiment that asks for them."""
    asked = experiment_of(experiment).noise is not None
    return of_all_runs(rules.noise.output.table, experiment) if asked else []


def change_of_table(table: Path, experiment: Experiment) -> str | None:
    """What is no longer as the record beside a table says, a user's own numbers among it."""
    record = record_of(table)
    return change_since(record, "divergence") or changed_numbers(own_numbers(table), experiment.divergence.numbers)


def whole_tables_of(wildcards, made: str) -> list[str]:
    """The tables of all runs, for a table of an experiment that is made of them; one that is not whole is made anew."""
    make_anew_unless_whole(Path("results", wildcards.experiment, made), read=True)
    return of_all_runs(rules.divergence.output.table, wildcards.experiment)


def groups_of(experiment: str) -> dict[str, dict]:
    """The ways to divide entries that an experiment names, as plain types."""
    return {name: group.model_dump() for name, group in experiment_of(experiment).groups.items()}


def number_files(experiment: str) -> list[str]:
    """The files of a user's own numbers."""
    return [local(str(number_file(name))) for name in experiment_of(experiment).divergence.numbers]


def measured_while_generating(wildcards) -> list[str]:
    """The user's own numbers that a run measures while it generates, as it keeps no logits."""
    names = experiment_of(wildcards.experiment).divergence.numbers
    return names if run_of(wildcards).config.capture.mode == "statistics" else []


def make_anew(path: Path, reason: str) -> None:
    """Have Snakemake make a file anew, as one named after --forcerun; `onstart` says why."""
    NOT_WHOLE[str(path)] = reason
    workflow.dag.forcefiles.add(str(path))


def make_anew_unless_whole(table: Path, read: bool = False) -> None:
    """Have a table made anew that is not as its record says; with `read` its content is looked at, too."""
    if looks_at_results() and table.exists() and (found := change_since(record_of(table), stage_of(table), read)):
        make_anew(table, found)


def results_of(wildcards) -> list[str]:
    """The results of all runs of an experiment, for its summary; one that is not of what is there is made anew."""
    summary = Path("results", wildcards.experiment, "summary.csv")
    if looks_at_results():
        require_for_report(summary)
        if summary.exists() and not same_runs(
            experiment_of(wildcards.experiment), summary.with_name("experiment.yaml")
        ):
            workflow.dag.forcefiles.add(str(summary))
        elif summary.exists() and (found := change_since(summary.with_name(SEAL), "summary", read=True)):
            make_anew(summary, found)
    return of_all_runs(rules.generate.output.results, wildcards.experiment)


@cache
def has_comparison(experiment: str) -> bool:
    """Whether swept points of an experiment share prompts, on which they are compared."""
    return shares_prompts(runs_of(experiment).values())


def is_left_to_right(experiment: str) -> bool:
    """Whether every run of an experiment commits one position a timestep, the next one."""
    return all(run.config.generation.is_left_to_right for run in runs_of(experiment).values())


def draws_tokens(experiment: str) -> bool:
    """Whether some run of an experiment does not take the most probable token: it is drawn, guided or given."""
    settings = (run.config.generation for run in runs_of(experiment).values())
    return any(each.temperature > 0 or each.cfg_scale > 0 or each.tokens != "generated" for each in settings)


def tables_of(wildcards, left_to_right: bool) -> list[str]:
    """The tables of all runs for the rule that draws experiments of this order; for the other a file that is not there.

    Two rules make most figures, one for each order; Snakemake takes the one whose inputs are there.
    """
    if is_left_to_right(wildcards.experiment) == left_to_right:
        return of_all_runs(rules.divergence.output.table, wildcards.experiment)
    order = "one left to right" if left_to_right else "one that is not left to right"
    return local(f"config/{wildcards.experiment}.yaml as {order}")


def pages_of(wildcards) -> list[str]:
    """The figures that an experiment has, its explorer, its comparison, and what of its tables is also Parquet."""
    drawn = rules.plot.output if is_left_to_right(wildcards.experiment) else rules.plot_any_order.output
    outputs = [*drawn, rules.explorer.output.page]
    outputs += rules.speed.output if has_speeds(wildcards.experiment) else []
    outputs += rules.own_numbers.output if experiment_of(wildcards.experiment).divergence.numbers else []
    outputs += rules.compare.output if has_comparison(wildcards.experiment) else []
    outputs += rules.coherence.output if coherent_points_of(wildcards.experiment) else []
    names = groups_of(wildcards.experiment)
    outputs += [*rules.groups.output, *rules.plot_group.output] if names else []
    runs = []
    if experiment_of(wildcards.experiment).tables == "parquet":
        outputs += rules.parquet_comparison.output if has_comparison(wildcards.experiment) else []
        outputs += rules.parquet_groups.output if names else []
        runs = of_all_runs(rules.parquet.output.table, wildcards.experiment)
        if experiment_of(wildcards.experiment).noise is not None:
            runs += of_all_runs(rules.parquet_noise.output.table, wildcards.experiment)
    paths = (
        path
        for output in outputs
        for path in expand(pattern_of(output), experiment=wildcards.experiment, group=names or [""])
    )
    return runs + list(dict.fromkeys(paths))


@cache
def has_speeds(experiment: str) -> bool:
    """Whether scores of an experiment are set against its speeds."""
    return compares_speed(runs_of(experiment).values())


@cache
def coherent_points_of(experiment: str) -> dict[str, dict]:
    """The swept values, by their numbers, of the runs that show whether a model's predictions agree with each other."""
    return {number: run.point for number, run in runs_of(experiment).items() if run.config.shows_coherence}


def require_for_report(summary: Path) -> None:
    """End with one line where --report is asked for and there is no summary of what is there; Snakemake's own line has
    no remedy.
    """
    asked = any(argument == "--report" or argument.startswith("--report=") for argument in sys.argv)
    if not asked or "--report-after-run" in sys.argv:
        return
    found = None
    if missing := missing_targets(summary.parent.name):
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        found = f"{summary.parent}: there is no {some}"
    elif change := change_since(summary.with_name(SEAL), "summary"):
        found = change
    if found:
        raise SystemExit(f"{found}, so there is nothing to report; first run snakemake --cores all {summary}")


def missing_targets(experiment: str) -> list[str]:
    """The names of what an experiment is to have and has not: triples, tables, figures, pages and the summary."""
    folder = Path("results", experiment)
    of_runs = [folder / f"{run}.{end}" for run in runs_of(experiment) for end in ("json.gz", "divergence.csv")]
    of_all = [Path(path) for path in pages_of(SimpleNamespace(experiment=experiment))]
    wanted = [*of_runs, *map(Path, noise_of(experiment)), *of_all, folder / "summary.csv"]
    return [str(path.relative_to(folder)) for path in wanted if not path.exists()]


def break_seals() -> None:
    """Remove the record of each summary of whose files one is about to be replaced.

    So the summary does not speak for them if the workflow is killed or fails before it is made anew: without its record
    the next start makes it anew, and with it whatever is missing then.
    """
    for job in workflow.dag.needrun_jobs():
        experiment = job.wildcards.get("experiment")
        if experiment is not None and any(Path(output).exists() for output in job.output):
            Path("results", experiment, SEAL).unlink(missing_ok=True)


def remove_stale_parquet(folder: Path) -> None:
    """Remove the Parquet tables of an experiment that no longer has them, lest they stay beside newer tables."""
    if experiment_of(folder.name).tables == "parquet":
        return
    asked = {output for job in workflow.dag.jobs for output in job.output}
    for path in folder.glob("*.parquet"):
        if re.fullmatch(r"\d{5}\.(divergence|noise)|summary|comparison|groups", path.stem) and str(path) not in asked:
            path.unlink()


def spare_finished_runs() -> None:
    """Set aside the triples that count as unfinished, so that their jobs can find them finished.

    They got their names and the workflow was killed before it noted that; Snakemake removes them when their jobs start.
    """
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in ("generate", "generate_tokens"):
            if workflow.async_run(workflow.persistence.incomplete(job)):
                set_aside(Path(job.output.results))


def note_interruption(number, frame) -> None:
    """Handle Ctrl-C as Python does, and remember it: Snakemake tells it from no other end of a workflow."""
    WAS_INTERRUPTED.append(number)
    raise KeyboardInterrupt


if workflow.is_main_process and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, note_interruption)


def looks_at_results() -> bool:
    """Whether results are at hand, and this is the Snakemake that the user started."""
    return workflow.is_main_process and not workflow.storage_settings.default_storage_provider


@cache
def checkpoint_inputs(model: Model) -> list[str]:
    """The files of a checkpoint in a local folder; none for one from the hub, whose commit is in the results."""
    return [local(str(path)) for path in checkpoint_files(Path(model.name), model.trust_remote_code)]


def pattern_of(output) -> str:
    """The path of a rule's output as it stands there: what `expand` takes, also where results are kept elsewhere.

    The provider of --default-storage-provider comes back to it when it is an input.
    """
    if not output.is_storage:
        return output
    return output.storage_object.query.removeprefix(workflow.storage_settings.default_storage_prefix).lstrip("/")


def of_all_runs(output, experiment: str) -> list[str]:
    """The paths of a rule's output for all runs of an experiment, which must have logits."""
    return expand(pattern_of(output), experiment=experiment, run=points_of(experiment))


def experiments_asked_for() -> list[str]:
    """The experiments that `config.yaml` or the command line lists."""
    try:
        return parse_selection(config, "config/config.yaml or --config")
    except UserError as error:
        raise SystemExit(str(error)) from None


def targets_of(experiment: str) -> list[str]:
    """What an experiment is run for: its summary, which brings the plots; or without logits the results alone."""
    if experiment_of(experiment).generation.save_logits:
        also = rules.parquet_summary.output if experiment_of(experiment).tables == "parquet" else []
        outputs = [rules.summarize.output.summary, *also]
        return [path for output in outputs for path in expand(pattern_of(output), experiment=experiment)]
    return expand(pattern_of(rules.generate_tokens.output.results), experiment=experiment, run=runs_of(experiment))


@cache
def points_of(experiment: str) -> dict[str, dict]:
    """The swept values of each run by its number."""
    if not experiment_of(experiment).generation.save_logits:
        raise SystemExit(
            f"config/{experiment}.yaml: generation.save_logits is false; without logits there is no divergence, "
            f"ask for results/{experiment}/00000.json.gz"
        )
    return {number: run.point for number, run in runs_of(experiment).items()}


onstart:
    if NOT_WHOLE:
        path, found = min(NOT_WHOLE.items())
        others = len(NOT_WHOLE) - 1
        logger.warning(f"{path}: is made anew{f', and {others} more' if others else ''}; {found}")
    if MADE_WITH_ANOTHER_CONFIG:
        path, found = min(MADE_WITH_ANOTHER_CONFIG.items())
        others = len(MADE_WITH_ANOTHER_CONFIG) - 1
        logger.warning(f"{path}: was made with {found}; it is made anew{f', and {others} more' if others else ''}")
    # Snakemake would end in a traceback when it clears the way for the first output.
    here = not workflow.storage_settings.default_storage_provider
    for folder in (Path("results", experiment) for experiment in ASKED_FOR):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise SystemExit(f"{folder}: can't be written to; is it, or its disk, read-only?")
        if here:
            remove_stale_parquet(folder)
        if here and (line := missing_room(experiment_of(folder.name), folder)):
            logger.warning(line)
    if here:
        break_seals()
        spare_finished_runs()


onerror:
    if WAS_INTERRUPTED:
        print("interrupted; run it again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)


def drawings(*names: str) -> dict:
    """The files of figures beside their PNG: the other formats, and what each of them draws as a table."""
    return {
        ending: [f"results/{{experiment}}/plots/{name}.{ending}" for name in names] for ending in ("svg", "pdf", "csv")
    }


def captions(name: str) -> list:
    """The captions of figures, for a paper."""
    return [f"results/{{experiment}}/plots/{name}.{ending}" for ending in ("md", "tex")]


def plots_of(experiment: str) -> dict:
    """How the figures of an experiment are to look."""
    return experiment_of(experiment).plots.model_dump()


def figure(name: str, question: str, caption: str | None = None) -> str:
    """The PNG of a figure, with its place in the report; the caption has the figure's name, if not another."""
    return report(
        f"results/{{experiment}}/plots/{name}.png",
        caption=f"../report/{caption or name}.rst",
        category="{experiment}",
        subcategory="Figures",
        labels={"result": question},
    )
