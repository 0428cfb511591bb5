"""Serve a model over HTTP: the protocol of OpenAI, and a page to chat, to compare answers and to rank them.

The server listens on 127.0.0.1. To listen elsewhere, set a key in the environment variable ATHANOR_API_KEY; clients
send it as `Authorization: Bearer KEY`. Ctrl-C or SIGTERM ends the server when the present answers are complete.
"""

import argparse
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.runtime import arguments, environment
from flows.serving.guard import LOOPBACK
from tasks.errors import BadModel, BadParams, UserError
from tasks.files import read_json

if TYPE_CHECKING:
    from flows.serving.page_api import Page

KEY_VARIABLE = "ATHANOR_API_KEY"
# The arguments that are used with --engine vllm.
OF_VLLM = {"engine", "vllm_python", "model", "data", "host", "port", "hosts", "dtype", "max_batch"}
NUM_RANKED_PROMPTS = 1_000  # of those for training, besides those that the last round asks for


def parse(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; an invalid one ends the process with exit code 2."""
    parser = arguments.parser("flows.serving", __doc__)
    add = parser.add_argument
    add("--model", default="champion", help="stage, folder or hub name; champion (default): data/models/champion, "
        "or else the last trained stage")  # fmt: skip
    add("--models", help="several models, separated by commas; with --share, the second one is tested beside the first")
    add(
        "--share", type=float, default=0.0, help="share of the requests for the first model that the second one answers"
    )
    add("--engine", choices=("own", "vllm"), default="own", help="what computes answers: the engine of this project "
        "(default), or vLLM on a GPU, without the page")  # fmt: skip
    add("--vllm-python", type=Path, metavar="FILE", help="interpreter of the environment that vLLM is installed in "
        "(default: ATHANOR_VLLM_PYTHON, or else .vllm/bin/python)")  # fmt: skip
    add("--data", type=Path, default=Path("data"), help="folder that contains models/ (default data)")
    add("--host", default="127.0.0.1", help=f"address to listen on; other than loopback needs {KEY_VARIABLE}")
    add("--port", type=int, default=8000, help="port to listen on (default 8000)")
    add("--hosts", help="names of this server, separated by commas, besides loopback (default with a key: any)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="number format of the weights")
    add("--max-batch", type=int, default=32, help="answers that are written at the same time (default 32)")
    add("--max-queue", type=int, default=128, help="requests that wait; more are refused with 429 (default 128)")
    add("--max-new-tokens", type=int, default=1024, help="length of an answer without a stated limit (default 1024)")
    add("--timeout", type=float, default=600.0, help="seconds that one request may take (default 600)")
    add(
        "--compare-share", type=float, default=0.0, help="share of the turns of the page in which two answers are shown"
    )
    add("--consent", default="", help="a sentence that the page shows, about what happens with votes")
    add(
        "--prompts",
        type=Path,
        help="prompts to rank, one a line (default: those of the last round, then the test prompts of data/tokens)",
    )
    add("--overlap", type=float, default=0.2, help="share of rankings that a second annotator makes, too (default 0.2)")
    add("--filter", type=Path, help="classifier (data/classifiers/NAME.safetensors) that blocks answers")
    add("--filter-threshold", type=float, default=0.5, help="probability from which an answer is blocked (default 0.5)")
    add("--watch", type=float, default=5.0, help="seconds between two looks for a new version of a model; 0: never")
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> int:
    """Run the server until it is stopped; return the exit code."""
    args = parse(command_line)
    try:
        return serve(args)
    except UserError as error:
        print(f"athanor: {error}", file=sys.stderr)
        return error.exit_code


def serve(args: argparse.Namespace) -> int:
    """Load the models and serve them. Raises UserError."""
    key = os.environ.get(KEY_VARIABLE) or None
    check(args, key)
    if args.engine == "vllm":
        return serve_by_vllm(args, key)
    print("loading ...", file=sys.stderr, flush=True)
    from flows.serving import answer_filter as filters
    from flows.serving import app
    from flows.serving.delivery import Delivery, Limits
    from flows.serving.metrics import Metrics
    from flows.serving.registry import Registry
    from flows.serving.signatures import Signer
    from flows.serving.state import State
    from tasks.serving import EngineParams

    delivery = Delivery()
    names = tuple(args.models.split(",")) if args.models else (args.model,)
    params = EngineParams(max_batch=args.max_batch, max_queue=args.max_queue)
    registry = Registry(names, args.data, params, args.share, args.dtype, delivery.flush)
    registry.load_all()
    limits = Limits(max_new_tokens=args.max_new_tokens, seconds=args.timeout)
    answer_filter = filters.load(args.filter, args.filter_threshold) if args.filter else None
    signer = Signer(environment.answers_key())
    state = State(registry, delivery, Metrics(registry), limits, filter=answer_filter, signer=signer)
    application = app.build(state, key, allowed_hosts(args, key), args.watch, open_page(args, names))
    for served in registry.all():
        notes = "".join(f"; {note}" for note in served.notes)
        print(f"{served.name}: {served.folder}, version {served.version}{notes}", file=sys.stderr, flush=True)
    return listen(application, args, registry.close)


def serve_by_vllm(args: argparse.Namespace, key: str | None) -> int:
    """Serve the model by vLLM, if its greedy text is that of this project. Raises UserError."""
    from flows.serving import vllm
    from tasks.serving import greedy_answers

    defaults = vars(parse([]))
    if ignored := [name for name, value in vars(args).items() if name not in OF_VLLM and value != defaults[name]]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
        raise BadParams(f"--engine vllm has no {names}. Leave it out, or use the engine of this project.")
    python = vllm.python_of(args)
    folder = vllm.exported(args.model, args.data, args.dtype)
    prompts, expected = greedy_answers(folder, args.dtype)
    print("starting vLLM ...", file=sys.stderr, flush=True)
    with vllm.running(python, folder, args) as (process, connection):
        vllm.compare(connection, args.model, prompts, expected)
        print(f"{args.model}: {folder}; {len(expected)} greedy texts are equal", file=sys.stderr, flush=True)
        code = listen(vllm.build(process, connection, key, allowed_hosts(args, key)), args, process.terminate)
        if process.poll() is not None:
            raise BadModel(f"vLLM has ended (exit code {process.returncode}); see {vllm.LOG}.")
        return code


def allowed_hosts(args: argparse.Namespace, key: str | None) -> set[str] | None:
    """The names of this server that a request may state; None: any, which needs a key."""
    return None if key and not args.hosts else {*LOOPBACK, *(args.hosts or "").split(",")} - {""}


def listen(application: Any, args: argparse.Namespace, end_answers: Callable[[], object]) -> int:
    """Answer requests until the server is stopped; return the exit code."""
    from flows.serving.ending import Server

    print(f"http://{args.host}:{args.port}/ (Ctrl-C ends the server)", file=sys.stderr, flush=True)
    server = Server(
        application, end_answers, is_process=True, host=args.host, port=args.port, log_level="warning",
        access_log=False, server_header=False, timeout_keep_alive=75, lifespan="on",
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        # After an orderly end, uvicorn raises the signal again, for the handler that was there before.
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started else 1


def check_port(host: str, port: int) -> None:
    """Raise BadParams for a port that is in use, before anything is loaded."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadParams(
                f"--port {port} is in use on {host}. End the program that uses it, or choose another port."
            ) from None


def open_page(args: argparse.Namespace, names: tuple[str, ...]) -> "Page":
    """The page with its votes below the data folder."""
    from flows.serving.page_api import Page
    from tasks.feedback import FOLDER, FeedbackLog
    from tasks.serving import RankingQueue

    log = FeedbackLog(args.data / FOLDER)
    compare = names if len(names) > 1 else ()
    queue = RankingQueue(prompts_to_rank(args.prompts, args.data), args.overlap)
    return Page(log, queue, compare, args.compare_share, args.consent)


def prompts_to_rank(file: Path | None, data: Path) -> list[str]:
    """The lines of a file, or else prompts of the pipeline for training. Raises BadParams.

    Held-out prompts stay for measurements: a round trains on what is ranked.
    """
    if file is not None:
        try:
            return list(dict.fromkeys(filter(None, map(str.strip, file.read_text(encoding="utf-8").splitlines()))))
        except (OSError, UnicodeDecodeError) as error:
            raise BadParams(f"--prompts {file} cannot be read as text: {error}") from error
    queue = data / "rounds/queue.txt"  # by the last round, the most uncertain first
    queued = queue.read_text(encoding="utf-8").splitlines() if queue.is_file() else []
    metadata = data / "tokens/prompts/train/metadata.json"
    if not metadata.is_file():
        return queued
    texts = [str(about["text"]) for about in read_json(metadata) if about.get("turn", 1) == 1 and "text" in about]
    return list(dict.fromkeys([*queued, *texts[:: max(1, len(texts) // NUM_RANKED_PROMPTS)]]))


def check(args: argparse.Namespace, key: str | None) -> None:
    """Check arguments that depend on each other. Raises BadParams."""
    if args.host not in LOOPBACK and key is None:
        raise BadParams(
            f"--host {args.host} would let anyone in the network use the model. Set a key in {KEY_VARIABLE}, or listen "
            "on 127.0.0.1."
        )
    shares = {name: getattr(args, name) for name in ("compare_share", "overlap", "filter_threshold")}
    if wrong := [name for name, value in shares.items() if not 0 <= value <= 1]:
        name = wrong[0]
        raise BadParams(f"--{name.replace('_', '-')} {shares[name]:g} needs a number from 0 to 1.")
    least = {"max_batch": 1, "max_queue": 0, "max_new_tokens": 1, "port": 0, "timeout": 0.001, "watch": 0}
    if too_small := [name for name, bound in least.items() if not getattr(args, name) >= bound]:
        name = too_small[0]
        raise BadParams(f"--{name.replace('_', '-')} {getattr(args, name)} needs at least {least[name]}.")
    if args.port > 65535:
        raise BadParams(f"--port {args.port} needs at most 65535.")
    names = (args.models or args.model).split(",")
    if not all(names) or len(set(names)) < len(names):
        raise BadParams(f"--models {args.models} needs different names of models, separated by commas.")
    if not 0 <= args.share <= 1 or (args.share and len((args.models or "").split(",")) != 2):
        raise BadParams(f"--share {args.share:g} needs a number from 0 to 1 and two models in --models A,B.")
    check_port(args.host, args.port)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    # Otherwise the interpreter would take down torch and all objects first, for up to 15 seconds on a busy machine.
    os._exit(exit_code)
