"""How bundles are served: bounds, queue, who may ask."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold. More is refused with 4xx before it is computed.

    Attributes:
        body_bytes: longest body.
        items: most items of a JSON or multipart request.
        lines: most lines of an NDJSON request.
        characters: longest text, in characters.
        pixels: largest picture, width × height, looked up before it is decoded.
        parts: most parts of an explanation.
        graphql_depth, graphql_cost, graphql_tokens: of a GraphQL document.
    """

    body_bytes: int = 8 << 20
    items: int = 1024
    lines: int = 20_000
    characters: int = 20_000
    pixels: int = 16_000_000
    parts: int = 64
    graphql_depth: int = 8
    graphql_cost: int = 2_000
    graphql_tokens: int = 2_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How requests share the engine.

    Attributes:
        batch: most rows of one run; 1 turns batching off.
        wait_ms: longest wait for more rows once a run could begin.
        queue: most rows that wait for a run; beyond it 503.
        lanes: runs at the same time; as many as the predictor was loaded with (`LoadOptions.lanes`).
        deadline_ms: longest time from a request's arrival to its answer; beyond it 504.
    """

    batch: int = 32
    wait_ms: float = 0.0
    queue: int = 2048
    lanes: int = 1
    deadline_ms: float = 10_000.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything the app wants to know beside the predictors.

    Attributes:
        token: callers must send `Authorization: Bearer TOKEN`; empty for anybody. Health and the page stay open.
        rate_per_s: requests a second that one address may send on average; 0 for any number.
        burst: requests one address may send at once before `rate_per_s` counts.
        origins: web origins whose pages may call (CORS); none by default.
        hosts: names that a request's Host header may hold; empty for any. Keeps other sites' names from being
            pointed at a loopback server (DNS rebinding).
        has_page: serve the page to try it at `/`.
        is_traced: make OpenTelemetry spans.
    """

    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    token: str = ""
    rate_per_s: float = 0.0
    burst: int = 20
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    has_page: bool = True
    is_traced: bool = False
