"""The verbs that measure the method itself: settings held against each other, and versions of one run played crosswise.

In: the config of a job; which settings and seeds, or how many checkpoints and chunks.
Out: tables or one JSON document; `experiment.json` and `.html`, `crossplay.json` and `.html`.
Refuses: unknown settings, no seeds, a config that does not plan; a run without kept adapters or unseen chunks.
Not here: the work (`experiment.py`, `crossplay.py`), the pages (`experiment_page.py`, `crossplay_page.py`).
"""

from pathlib import Path
from typing import Annotated

import typer

from spice_enterprise import crossplay_page, durable, experiment_page
from spice_enterprise.cli_frame import AsJson, Config, Debug, Name, Sets, Workspace, greet, settings_of, verb
from spice_enterprise.cli_screen import Screen
from spice_enterprise.crossplay import CrossPlayRun, Sizes
from spice_enterprise.errors import EXIT_DONE, EXIT_INCONCLUSIVE
from spice_enterprise.experiment import DEFAULT_SETTINGS, SETTINGS, ExperimentRun, no_parts, require_plans
from spice_enterprise.job import begun_with
from spice_enterprise.records import encode_json
from spice_enterprise.store import RunStore


def experiment(
    config: Config,
    settings: Annotated[str, typer.Option("--settings", metavar="A,B", help=f"Of: {', '.join(SETTINGS)}.")] = ",".join(
        DEFAULT_SETTINGS
    ),
    seeds: Annotated[int, typer.Option("--seeds", help="Runs per setting, with seeds counted up from the config's.")] = 3,
    to: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Default: <name>-experiment in the workspace.", show_default=False),
    ] = None,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train with each setting on one corpus, compare on one exam. Exit 4 when a run failed. The same command continues."""
    with verb("experiment", is_json=as_json, is_debug=debug) as out:
        greet("experiment", config)
        job = settings_of(config, workspace, name, sets)
        folder = to or job.workspace_dir / f"{job.name}-experiment"
        names = [part.strip() for part in settings.split(",") if part.strip()]
        with Screen() as screen:
            runs = ExperimentRun(job, settings=names, seeds=seeds, out=folder, parts_of=no_parts, on_progress=screen)
            require_plans(runs.variants)
            found = runs.run()
        page = folder / "experiment.html"
        durable.write_file(page, experiment_page.render_html(found).encode())
        text = f"{experiment_page.render_text(found)}\n\nwritten to {page}"
        data = {**encode_json(found), "html": str(page), "json": str(page.with_suffix(".json"))}
        out.show(data, text, EXIT_DONE if found.is_complete else EXIT_INCONCLUSIVE)


def crossplay(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The YAML file of a finished run, or its directory.", show_default=False)
    ],
    checkpoints: Annotated[int, typer.Option("--checkpoints", min=2, help="Versions, from 30 % of self-play to its end.")] = 5,
    chunks: Annotated[int, typer.Option("--chunks", min=2, help="Chunks of unseen documents.")] = 64,
    attempts: Annotated[int, typer.Option("--attempts", min=2, help="Proposals for each chunk by each version.")] = 8,
    answers: Annotated[int, typer.Option("--answers", min=2, help="Answers to each question by each version.")] = 8,
    name: Name = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Play kept versions of a finished run crosswise on unseen documents: do questions get harder, and answers better?"""
    with verb("crossplay", is_json=as_json, is_debug=debug) as out:
        greet("crossplay", config)
        sizes = Sizes(checkpoints=checkpoints, chunks=chunks, attempts=attempts, answers=answers)
        is_run = (config / "run.json").is_file()
        job = begun_with(RunStore(config.absolute())) if is_run else settings_of(config, workspace, name, sets)
        with Screen() as screen:
            found = CrossPlayRun(job, sizes=sizes, parts=None, on_progress=screen).run()
        page = job.run_dir / "crossplay.html"
        durable.write_file(page, crossplay_page.render_html(found).encode())
        text = f"{crossplay_page.render_text(found)}\n\nwritten to {page}"
        out.show({**encode_json(found), "html": str(page), "json": str(page.with_suffix(".json"))}, text)
