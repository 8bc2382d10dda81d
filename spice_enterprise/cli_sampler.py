"""The verb that serves completions to jobs on the same machine, in a process and an environment of its own.

In: the config of the job, or the base model alone; which sampler to run.
Out: where it listens, once it is ready; then answers until SIGTERM or SIGINT, which end it with exit code 0.
Refuses: a port that is taken (`E_PORT_TAKEN`, exit 75), before any weight is loaded; a job that comes while they are being
    loaded is told so, and waits.
Not here: the server (`training/sampler_server.py`).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from spice_enterprise import offline
from spice_enterprise.cli_frame import AsJson, Debug, Out, Sets, Workspace, greet, pairs_of, settings_of, verb
from spice_enterprise.config import JobConfig, build_config
from spice_enterprise.errors import EXIT_DONE


def serve_sampler(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The YAML file of the job to serve.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="M", help="Instead of CONFIG: `embedded` or a directory.", show_default=False),
    ] = None,
    kind: Annotated[Literal["vllm", "hf"], typer.Option("--kind", help="What samples.")] = "vllm",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, help="Of 127.0.0.1; 0 is any free one. Default: sampler.url.", show_default=False
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Made when it is absent. Default: sampler.token_file.", show_default=False),
    ] = None,
    workspace: Workspace = None,
    sets: Sets = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Serve completions to jobs on this machine (`sampler.kind: server`), over loopback with a token, until it is stopped."""
    with verb("serve-sampler", is_json=as_json, is_debug=debug) as out:
        greet("serve-sampler", kind)
        more: dict[str, object] = {"base_model": base_model} if base_model is not None else {}
        if config is None:
            where = {"workspace": str(workspace)} if workspace is not None else {}
            settings = build_config({"corpus": "."}, {**pairs_of(sets or ()), **where, **more}, where="options")
        else:
            settings = settings_of(config, workspace, None, sets, more)
        with _ending_quietly():
            if not _serve(out, settings, kind, (port, token_file)):
                os._exit(EXIT_DONE)  # a thread that is still inside torch would abort the interpreter's own way out


def _serve(out: Out, settings: JobConfig, kind: Literal["vllm", "hf"], where: tuple[int | None, Path | None]) -> bool:
    """Take the port, load, say that it is ready, answer until a signal. False when the sampler is still in its last group."""
    # torch and transformers take seconds to import: not for `--help`, and not before the port is had
    from spice_enterprise.training.adapter_shelf import pick_parent
    from spice_enterprise.training.loopback_http import LoopbackListener
    from spice_enterprise.training.sampler_server import SamplerServer, listening, private_folder
    from spice_enterprise.training.server_line import address_of
    from spice_enterprise.training.server_token import load_or_create_token, token_path

    offline.check_switches()
    if not settings.offline:
        offline.allow_hub()
    offline.GUARD.start(is_offline=settings.offline)
    port = where[0] if where[0] is not None else address_of(settings.sampler.url)[1]
    token = load_or_create_token(where[1] or token_path(settings))
    with LoopbackListener(port, token=token) as listener, ExitStack() as held, ExitStack() as answers:
        answers.enter_context(listening(listener))
        from spice_enterprise.training.served_sampler import build_sampler, find_base, served_bytes

        base = find_base(kind, settings)
        needed_bytes = served_bytes(base, settings.training.lora_rank)
        parent = pick_parent(settings.sampler.adapter_dir, run_dir=settings.workspace_dir, needed_bytes=needed_bytes)
        folder = held.enter_context(private_folder(parent, listener.port))
        served = build_sampler(kind, base, settings, folder=folder)
        server = SamplerServer(served.sampler, served.identity, folder)
        try:
            listener.routes = server.routes
            out.show({"url": listener.url, "identity": served.identity}, f"ready at {listener.url}")
            server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            answers.close()  # a job that asks a server which is ending would count it as failing, not as away
            if has_ended := server.close():
                served.close()
    return has_ended


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """Let SIGTERM and SIGINT end this block without an error; while it is undone, further signals are ignored."""

    def stop(_: int, __: FrameType | None) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
