"""Following a store: real bundles, a real depot, a real self-test; hot swaps under load, trials, shadows."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorstep import Predictor
from doorstep.cli.main import main
from doorstep.errors import EngineError, InputError, StoreError, UsageError
from doorstep.fleet.channel import Health
from doorstep.fleet.clock import SystemClock
from doorstep.fleet.depot import Depot
from doorstep.fleet.follow import DRAIN, SWAP, Follower, FollowOptions
from doorstep.fleet.health import Judge, Verdicts
from doorstep.fleet.keys import KeyRing
from doorstep.fleet.publishing import Plan, publish
from doorstep.fleet.selftest import Bounds, Verdict, prove
from doorstep.fleet.settings import Settings
from doorstep.fleet.state import Held, State, on_trial
from doorstep.fleet.store import Store
from doorstep.fleet.updater import Updater
from doorstep.golden import flatten
from doorstep.results import Classification

TEXTS = ("arrived in two days, love it", "质量太差了，要求退款")
LABELS = {"1": ("negative", "neutral", "positive"), "2": ("bad", "fair", "good"), "3": ("差", "中", "好")}
PRODUCT = "reviews"
SWAPS = 200
NEVER_POLLS = FollowOptions(poll_s=3600.0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> dict[str, Path]:
    """Bundles with golden examples whose labels tell them apart."""
    made = {}
    for version, labels in LABELS.items():
        options = {"labels": labels, "max_length": 32}
        draft = make_bundle(tmp_path_factory.mktemp("draft"), options=options)
        with Predictor.load(draft, variant="onnx-fp32") as predictor:
            examples = [{"item": text, "expected": flatten(predictor.predict(text))} for text in TEXTS]
        golden = {"format": 1, "examples": examples, "tolerances": {"onnx-fp32": 1e-4, "onnx-int8": 1e-4}}
        files = {"golden.json": json.dumps(golden).encode()}
        folder = tmp_path_factory.mktemp("bundle") / version
        made[version] = make_bundle(folder, files=files, options=options, version=version)
    return made


class Shop:
    """A depot and one device."""

    def __init__(self, folder: Path, bundles: dict[str, Path]) -> None:
        self.folder = folder
        self.bundles = bundles
        self.root = folder / "store"
        self.ring = KeyRing(folder / "keys", {})
        Depot.init(folder / "depot", self.ring)

    def publish(self, version: str, health: Health) -> None:
        publish(
            Depot.open(self.folder / "depot"), self.ring, self.bundles[version], Plan(health=health), lambda text: None
        )

    def update(self) -> str:
        """Visit the depot; the self-test is not asked, a test of its own does that."""
        root = (self.folder / "depot/root.json").read_bytes()
        address = (self.folder / "depot").as_uri()
        settings = Settings((address,), PRODUCT, "stable", root, self.root, "kiosk")
        return Updater(settings, clock=SystemClock(), prover=lambda *arguments: Verdict("")).run().kind

    @property
    def store(self) -> Store:
        return Store.open(self.root, PRODUCT)


AT_ONCE = Health(confirm_requests=0, confirm_minutes=0)


@pytest.fixture
def shop(tmp_path: Path, bundles: dict[str, Path]) -> Shop:
    made = Shop(tmp_path, bundles)
    made.publish("1", AT_ONCE)
    assert made.update() == "updated"
    return made


@pytest.fixture
def follower(shop: Shop) -> Iterator[Follower]:
    with Predictor.follow(PRODUCT, store=shop.root, options=NEVER_POLLS) as opened:
        yield opened


def label_sets(result: Classification) -> set[str]:
    """Return the versions whose labels an answer holds."""
    return {version for version, labels in LABELS.items() if {one.label for one in result.scores} & set(labels)}


def wait_for(condition: Callable[[], bool]) -> bool:
    """Wait up to a minute for what another thread does."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_new_release_takes_over_while_the_app_runs(shop: Shop) -> None:
    with Predictor.follow(PRODUCT, store=shop.root, options=FollowOptions(poll_s=0.02)) as follower:
        assert label_sets(follower.predict(TEXTS[0])) == {"1"}
        shop.publish("2", AT_ONCE)
        assert shop.update() == "updated"
        assert wait_for(lambda: follower.release.startswith("2-"))
        assert label_sets(follower.predict(TEXTS[0])) == {"2"}
        assert [label_sets(result) for result in follower.stream(TEXTS)] == [{"2"}, {"2"}]


@pytest.mark.parametrize("mode", [SWAP, DRAIN])
def test_43_swaps_under_load_fail_no_request_and_mix_no_answer(shop: Shop, mode: str) -> None:
    shop.publish("2", AT_ONCE)
    shop.update()
    store = shop.store
    both = [held for held in (store.state().current, store.state().previous) if held is not None]
    stop, found, problems = threading.Event(), [], []

    def ask(follower: Follower) -> None:
        while not stop.is_set():
            try:
                results = follower.predict_many(TEXTS)
                found.append([label_sets(result) for result in results])
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is what this test is about
                problems.append(error)

    with Predictor.follow(PRODUCT, store=shop.root, options=replace(NEVER_POLLS, mode=mode)) as follower:
        threads = [threading.Thread(target=ask, args=(follower,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for number in range(SWAPS):
            store.change(lambda state, one=both[number % 2]: replace(state, current=one))  # type: ignore[misc]
            follower.poke()
        stop.set()
        for thread in threads:
            thread.join()
        assert follower.swaps >= SWAPS - 1
    assert problems == []
    assert all(answers in ([{"1"}] * 2, [{"2"}] * 2) for answers in found)
    assert len(found) > SWAPS


def test_a_release_on_trial_is_committed_after_enough_good_answers(shop: Shop, follower: Follower) -> None:
    shop.publish("2", Health(confirm_requests=3, confirm_minutes=600))
    assert shop.update() == "on trial"
    follower.poke()
    for _ in range(3):
        assert label_sets(follower.predict(TEXTS[0])) == {"2"}
    assert wait_for(lambda: shop.store.state().phase == "idle")
    assert shop.store.state().current.version == "2"  # type: ignore[union-attr]


def test_42_a_release_that_fails_on_trial_is_given_up_and_the_old_one_answers(
    shop: Shop, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("2", Health(confirm_requests=10, confirm_minutes=600))
    shop.update()
    follower.poke()

    def fails(item: Any) -> Any:
        raise EngineError("out of memory")

    monkeypatch.setattr(follower.predictor, "predict", fails)
    for _ in range(3):
        if follower.release.startswith("2-"):
            with pytest.raises(EngineError):
                follower.predict(TEXTS[0])
    assert wait_for(lambda: shop.store.state().phase == "idle")
    follower.poke()
    assert label_sets(follower.predict(TEXTS[0])) == {"1"}
    assert "out of memory" in (shop.store.state().denied[0].reason)


@pytest.mark.parametrize(
    ("score", "limit_ms", "expected"),
    [(0.5, None, Verdicts.GOOD), (float("nan"), None, Verdicts.BAD), (0.5, 1e-9, Verdicts.BAD)],
    ids=["well", "no number", "slow"],
)
def test_42_a_trial_is_judged_by_errors_numbers_and_time(score: float, limit_ms: float | None, expected: Any) -> None:
    judge = Judge("1-x", Health(confirm_requests=5, max_p95_ms=limit_ms))
    for _ in range(5):
        judge.ask(lambda: Classification("a", score, ()))
    assert judge.verdict() == expected


def test_a_trial_counts_no_request_that_was_refused_as_a_whole() -> None:
    judge = Judge("1-x", Health(confirm_requests=1))
    refused = InputError("item 0: expected a text")
    assert judge.ask(lambda: [refused, refused]) == [refused, refused]
    assert judge.verdict() == Verdicts.OPEN
    judge.ask(lambda: [refused, Classification("a", 0.5, ())])
    assert judge.verdict() == Verdicts.GOOD


def test_a_wrong_item_costs_its_own_answer_alone(shop: Shop, follower: Follower) -> None:
    found = follower.predict_many([TEXTS[0], 7, TEXTS[1]], on_error="return")
    assert [label_sets(found[0]), label_sets(found[2])] == [{"1"}, {"1"}]
    assert isinstance(found[1], InputError) and "item 1" in str(found[1])
    streamed = list(follower.stream(iter([TEXTS[0], 7, TEXTS[1]]), batch_size=2, on_error="return"))
    assert [isinstance(one, InputError) for one in streamed] == [False, True, False]
    with pytest.raises(InputError, match="item 0"):
        list(follower.stream([7]))
    for batch_size in (1, 2):
        with pytest.raises(InputError, match="item 2: "):
            list(follower.stream([TEXTS[0], TEXTS[1], 7], batch_size=batch_size))
    with pytest.raises(UsageError, match="batch_size"):
        list(follower.stream(TEXTS, batch_size=0))


def test_a_refused_item_is_no_sample_of_a_shadowed_release(shop: Shop, follower: Follower) -> None:
    shop.publish("2", Health(confirm_requests=2, confirm_minutes=600, shadow_share=1.0, min_agreement=0.0))
    assert shop.update() == "on trial"
    follower.poke()
    follower.predict_many([7, 7, 7], on_error="return")
    assert shop.store.state().phase != "trial"
    follower.predict_many([TEXTS[0], 7, TEXTS[1]], on_error="return")
    assert wait_for(lambda: shop.store.state().phase == "trial")
    kept = json.loads(next((shop.store.folder / "shadow").glob("*.json")).read_text())
    assert (kept["asked"], kept["failed"]) == (2, 0)


@pytest.mark.parametrize(("needed", "phase", "denied"), [(0.0, "trial", 0), (1.0, "idle", 1)])
def test_a_shadowed_release_goes_on_trial_only_where_it_agrees(
    shop: Shop, follower: Follower, needed: float, phase: str, denied: int
) -> None:
    """The labels of release 2 are other words, so that it never agrees; a bound of 0 lets it pass."""
    shop.publish("2", Health(confirm_requests=4, confirm_minutes=600, shadow_share=1.0, min_agreement=needed))
    assert shop.update() == "on trial"
    follower.poke()
    for _ in range(4):
        assert label_sets(follower.predict(TEXTS[1])) == {"1"}
    assert wait_for(lambda: shop.store.state().phase == phase)
    assert len(shop.store.state().denied) == denied
    kept = next((shop.store.folder / "shadow").glob("*.json")).read_text()
    assert TEXTS[1] not in kept
    assert json.loads(kept)["agreement"] == 0.0
    assert json.loads(kept)["drift"] == 1.0


def test_a_damaged_release_is_passed_over_and_noted(shop: Shop) -> None:
    shop.publish("2", AT_ONCE)
    shop.update()
    for model in shop.store.current.rglob("model.onnx"):
        size = model.stat().st_size
        model.unlink()  # a name of its own: both releases share the model's blob
        model.write_bytes(bytes(size))
    with Predictor.follow(PRODUCT, store=shop.root, options=NEVER_POLLS) as follower:
        assert label_sets(follower.predict(TEXTS[0])) == {"1"}
    assert len(shop.store.state().damaged) == 1
    assert shop.update() == "updated"
    with Predictor.follow(PRODUCT, store=shop.root, options=NEVER_POLLS) as follower:
        assert label_sets(follower.predict(TEXTS[0])) == {"2"}


def test_a_closed_follower_says_so_and_an_empty_store_too(shop: Shop, tmp_path: Path) -> None:
    follower = Predictor.follow(PRODUCT, store=shop.root, options=NEVER_POLLS)
    follower.close()
    follower.close()
    with pytest.raises(EngineError, match="closed"):
        follower.predict(TEXTS[0])
    with pytest.raises(StoreError, match="run: doorstep agent"):
        Predictor.follow(PRODUCT, store=tmp_path / "empty")
    with pytest.raises(UsageError, match="mode"):
        Predictor.follow(PRODUCT, store=shop.root, options=FollowOptions(mode="fast"))


def test_following_loads_nothing_that_fetches(shop: Shop) -> None:
    program = (
        "import sys; from doorstep import Predictor\n"
        f"Predictor.follow('{PRODUCT}', store={str(shop.root)!r}).close()\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'tuf', 'urllib3', 'cryptography', 'zstandard'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_39_the_self_test_passes_a_good_bundle_and_tells_a_wrong_one(bundles: dict[str, Path], tmp_path: Path) -> None:
    good = prove(bundles["1"], Bounds())
    assert (good.reason, good.variant.startswith("onnx-"), good.peak_rss_mib > 10) == ("", True, True)
    wrong = Path(shutil.copytree(bundles["1"], tmp_path / "wrong"))
    for model in wrong.rglob("model.onnx"):
        model.write_bytes(b"\0" * model.stat().st_size)
    assert "the self-test failed" in prove(wrong, Bounds()).reason
    assert "not done after" in prove(bundles["1"], Bounds(timeout_s=0.01)).reason
    assert "are allowed" in prove(bundles["1"], Bounds(max_rss_mib=5)).reason


def test_states_that_race_change_nothing() -> None:
    held = Held("2-x", 2, "2", "")
    state = on_trial(State(), held, "2026-01-01T00:00:00Z")
    assert state.serving == held
    assert state.held() == {"2-x"}


def test_the_verbs_carry_a_bundle_from_the_workshop_to_the_device(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depot, store = str(tmp_path / "depot"), str(tmp_path / "store")

    def doorstep(*words: str) -> str:
        code = main(words)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    agent = ("agent", "--depot", depot, "--product", PRODUCT, "--root", f"{depot}/root.json", "--store", store)
    doorstep("depot", "init", depot)
    doorstep("publish", str(bundles["1"]), "--depot", depot, "--confirm-requests", "0", "--confirm-minutes", "0")
    assert doorstep(*agent).startswith("updated: release 1-")
    assert "goes to the cohort 'lab'" in doorstep("publish", str(bundles["2"]), "--depot", depot, "--cohort", "lab") + (
        doorstep(*agent, "--label", "lab")
    )
    assert "serves release 2-" in doorstep("fleet", "explain", "--store", store)
    assert "rollout r2 of release 2: running" in doorstep("rollout", "status", "--depot", depot)
    doorstep("rollout", "halt", "--depot", depot)
    assert doorstep("rollback", "--store", store).startswith(f"{PRODUCT}: serves 1-")
    assert "every signature" in doorstep("depot", "fsck", depot)
    doorstep("depot", "resign", depot)
    doorstep("depot", "rotate-key", depot, "--role", "releases")
    doorstep("depot", "gc", depot, "--keep", "1")
    assert "copied" in doorstep("depot", "export", str(tmp_path / "usb"), "--depot", depot)
    reports = tmp_path / "reports"
    reports.mkdir()
    doorstep(*agent, "--report", reports.as_uri())
    assert doorstep("fleet", "report", str(reports)).startswith("1 devices, 1 in trouble")
    doorstep("fleet", "report", str(reports), "--html", str(tmp_path / "fleet.html"))
    assert "1 devices" in (tmp_path / "fleet.html").read_text()
