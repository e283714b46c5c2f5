"""`doorstep serve`."""

import argparse
import ipaddress
import os
import tempfile
from pathlib import Path

from doorstep.cli.arguments import count
from doorstep.device import granted_cores
from doorstep.errors import MissingExtraError, UsageError
from doorstep.predictor import LoadOptions
from doorstep.signing import TrustKey

_MAX_TOKEN_BYTES = 4096
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", metavar="[NAME=]BUNDLE", help="folders, single files, or a link to one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one (8080)")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--variant", help="a variant (onnx-int8) or a runtime (onnx)")
    engine.add_argument("--threads", type=count, help="of the engine (DOORSTEP_THREADS, else the cores granted)")
    engine.add_argument("--processes", type=count, default=1, help="each loads the bundles (1)")
    engine.add_argument("--trust", type=Path, metavar="KEY.pub")
    engine.add_argument(
        "--reload-s", type=float, default=2.0, metavar="S", help="look for another bundle; 0: on SIGHUP (2)"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--batch", type=count, default=32, metavar="N", help="most items of one run; 1: no batching (32)")
    load.add_argument("--batch-wait-ms", type=float, default=0.0, metavar="MS", help="longest wait for more items (0)")
    load.add_argument(
        "--lanes", type=count, default=1, metavar="N",
        help="runs at the same time, which share the cores (1)",
    )  # fmt: skip
    load.add_argument("--queue", type=int, default=2048, metavar="N", help="items that may wait; beyond: 503 (2048)")
    load.add_argument("--deadline-ms", type=float, default=10_000.0, metavar="MS", help="beyond: 504 (10000)")
    load.add_argument("--clients", type=count, default=72, metavar="N", help="requests worked on at once (72)")
    load.add_argument("--drain-s", type=float, default=10.0, metavar="S", help="for requests under way at a stop (10)")
    access = parser.add_argument_group("access")
    access.add_argument("--token-file", type=Path, metavar="FILE", help="callers must send its content as bearer token")
    access.add_argument("--rate", type=float, default=0.0, metavar="N", help="requests a second from one address")
    access.add_argument(
        "--burst", type=count, default=20, metavar="N", help="requests at once before --rate counts (20)"
    )
    access.add_argument("--max-body-mib", type=count, default=8, metavar="MIB", help="longest body (8)")
    access.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="another name of this server")
    access.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="CORS, for this web origin"
    )
    access.add_argument("--no-page", action="store_true", help="serve no page at /")
    parser.add_argument("--log-level", choices=["info", "error"], default="info", help="info: a line a request")
    parser.add_argument("--otel", action="store_true", help="OpenTelemetry spans, exported as OTEL_* say")


def run(arguments: argparse.Namespace) -> int:
    if arguments.processes == 1:
        return _run(arguments)
    with tempfile.TemporaryDirectory(prefix="doorstep-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # prometheus_client looks when it is imported
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from doorstep.serve import Limits, ServeOptions
    from doorstep.serve.hooks import log_to_stderr
    from doorstep.serve.launch import Launch, launch
    from doorstep.serve.options import Bounds
    from doorstep.serve.process_options import ServerOptions
    from doorstep.serve.sources import Source

    _check(arguments)
    if arguments.otel:
        _export_spans()
    log_to_stderr(arguments.log_level)
    body_bytes = arguments.max_body_mib << 20
    options = ServeOptions(
        limits=Limits(body_bytes=body_bytes),
        bounds=Bounds(
            batch=arguments.batch,
            wait_ms=arguments.batch_wait_ms,
            queue=arguments.queue,
            lanes=arguments.lanes,
            deadline_ms=arguments.deadline_ms,
        ),
        token=_token(arguments.token_file) if arguments.token_file else "",
        rate_per_s=arguments.rate,
        burst=arguments.burst,
        origins=tuple(arguments.allow_origin),
        hosts=_hosts(arguments.host, arguments.allow_host),
        has_page=not arguments.no_page,
        is_traced=arguments.otel,
    )
    trust = TrustKey.load(arguments.trust) if arguments.trust else None
    load = LoadOptions(trust=trust, lanes=arguments.lanes)
    threads = arguments.threads or _share_of_cores(arguments.processes * arguments.lanes)
    sources = [Source.parse(text) for text in arguments.bundles]
    plan = Launch(
        sources=tuple(Source(one.path, one.name, arguments.variant, threads, load) for one in sources),
        host=arguments.host,
        port=arguments.port,
        options=options,
        server=ServerOptions(threads=arguments.clients, body_bytes=body_bytes, drain_s=arguments.drain_s),
        processes=arguments.processes,
        reload_s=arguments.reload_s,
    )
    return launch(plan)


def _check(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port: expected 0 to 65535, got {arguments.port}")
    for name, least in (
        ("queue", 1),
        ("deadline_ms", 1),
        ("batch_wait_ms", 0),
        ("reload_s", 0),
        ("drain_s", 0),
        ("rate", 0),
    ):
        if not getattr(arguments, name) >= least:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(arguments, name)}")


def _share_of_cores(shares: int) -> int | None:
    return max(1, granted_cores() // shares) if shares > 1 and not os.environ.get("DOORSTEP_THREADS") else None


def _token(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(_MAX_TOKEN_BYTES + 1).strip()
    if not 16 <= len(data) <= _MAX_TOKEN_BYTES or not data.isascii() or b" " in data:
        raise UsageError(f"{path.name}: expected one token of 16 characters or more, ASCII, without spaces")
    return data.decode("ascii")


def _hosts(host: str, allowed: list[str]) -> tuple[str, ...]:
    """Return the names a Host header may hold: on loopback this machine's own; elsewhere any, unless some are given."""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback and not allowed:
        return ()
    return tuple(name.lower() for name in (*_LOCAL_NAMES, host, *allowed))


def _export_spans() -> None:
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError.of("OpenTelemetry", "otel") from error
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
