"""The verb that serves completions to jobs on the same machine, in a process and an environment of its own.

In: the config of the job, or the base model alone; which sampler to run.
Out: where it listens, once it is ready; then answers until SIGTERM or SIGINT, which end it with exit code 0.
Refuses: a port that is taken (`E_PORT_TAKEN`, exit 75), before any weight is loaded.
Not here: the server (`training/sampler_server.py`).
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import typer

from spice_enterprise import offline
from spice_enterprise.cli_frame import AsJson, Debug, Out, Sets, Workspace, greet, pairs_of, settings_of, verb
from spice_enterprise.config import JobConfig, build_config

SERVED_BYTES: Final = 2 << 30
"""Room for the adapters that a server holds; with less in memory they lie in the workspace."""


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
        with ExitStack() as stack:
            stack.enter_context(_ending_quietly())
            _serve(out, settings, kind, (port, token_file), stack)


def _serve(
    out: Out, settings: JobConfig, kind: Literal["vllm", "hf"], where: tuple[int | None, Path | None], stack: ExitStack
) -> None:
    """Take the port, load, say that it is ready, answer. What is entered into `stack` is undone however it ends."""
    # torch and transformers take seconds to import: not for `--help`, and not before the port is had
    from spice_enterprise.training import sampler_server
    from spice_enterprise.training.adapter_shelf import pick_parent
    from spice_enterprise.training.loopback_http import LoopbackListener
    from spice_enterprise.training.server_token import load_or_create_token, token_path

    offline.GUARD.start(is_offline=settings.offline)
    port = where[0] if where[0] is not None else urlsplit(settings.sampler.url).port
    token = load_or_create_token(where[1] or token_path(settings))
    listener = stack.enter_context(LoopbackListener(port or 0, token=token))
    parent = pick_parent(settings.sampler.adapter_dir, run_dir=settings.workspace_dir, needed_bytes=SERVED_BYTES)
    folder = stack.enter_context(sampler_server.private_folder(parent, listener.port))
    from spice_enterprise.training import served_sampler

    served = served_sampler.build_sampler(kind, settings, folder=folder)
    stack.callback(served.close)
    server = sampler_server.SamplerServer(served.sampler, served.identity, folder)
    stack.enter_context(sampler_server.listening(listener, server))
    out.show({"url": listener.url, "identity": served.identity}, f"ready at {listener.url}")
    server.wait()


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
