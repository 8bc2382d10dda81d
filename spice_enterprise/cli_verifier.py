"""The verb that tries the verifier on answers that people have judged.

In: a golden file; a config, if wanted.
Out: agreement, wrong verdicts and failures by id, speed; exit 0 when it agrees on every row, else 3.
Refuses: a golden file with anything wrong in it (`E_GOLDEN_FILE`, exit 2), one line per problem.
Not here: a verifier of the user's own, which is an object: `job.with_(verifier=Mine()).test_verifier(GOLDEN)`.
"""

from pathlib import Path
from typing import Annotated

import typer

from spice_enterprise.cli_frame import AsJson, Debug, Sets, greet, pairs_of, settings_of, verb
from spice_enterprise.config import build_config
from spice_enterprise.errors import EXIT_DONE, EXIT_FAIL
from spice_enterprise.job import SpiceAdapterJob
from spice_enterprise.records import encode_json


def try_verifier(
    golden: Annotated[Path, typer.Argument(metavar="GOLDEN", help="CSV or JSON Lines of judged answers.", show_default=False)],
    config: Annotated[Path | None, typer.Option("--config", help="The YAML file of a job.", show_default=False)] = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare the verifier with answers that people have judged. Exit 3 when they differ anywhere."""
    with verb("test-verifier", is_json=as_json, is_debug=debug) as out:
        greet("test-verifier", golden.name)
        if config is None:
            settings = build_config({"corpus": "."}, pairs_of(sets or ()), where="options")
        else:
            settings = settings_of(config, None, None, sets)
        report = SpiceAdapterJob(config=settings).test_verifier(golden)
        data = {**encode_json(report), "is_perfect": report.is_perfect}
        out.show(data, str(report), EXIT_DONE if report.is_perfect else EXIT_FAIL)
