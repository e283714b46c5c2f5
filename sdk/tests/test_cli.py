"""The command line: results to stdout, the rest to stderr; 0, 1 for a known error, 2 for usage."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from doorstep import __version__
from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.cli.main import VERBS, main
from doorstep.cli.output import mib, table
from doorstep.signing import TRUST_VARIABLE, TrustKey

Capture = pytest.CaptureFixture[str]
OURS = [verb for verb, (module, _) in VERBS.items() if module.startswith("doorstep.")]


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def usage(capsys: Capture, *arguments: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def doorstep(*arguments: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "doorstep.cli.main", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)


def test_the_version_is_printed(capsys: Capture) -> None:
    assert usage(capsys, "--version") == (0, f"doorstep {__version__}\n", "")


def test_without_a_verb_the_verbs_are_listed(capsys: Capture) -> None:
    code, out, _ = run(capsys)
    assert code == 2
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("arguments", [["fly"], ["predict"], ["verify", "x", "--colour"], ["sign", "x"], ["--fly"]])
def test_wrong_usage_is_exit_code_2_on_stderr(capsys: Capture, arguments: list[str]) -> None:
    code, out, err = usage(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: doorstep")


@pytest.mark.parametrize("verb", OURS)
def test_every_verb_has_help(capsys: Capture, verb: str) -> None:
    code, out, _ = usage(capsys, verb, "--help")
    assert code == 0
    assert VERBS[verb][1] in out


def test_predict_answers_each_text_on_a_line(capsys: Capture, bundle: Path) -> None:
    code, out, err = run(capsys, "predict", bundle, "love it", "配送很快")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 2


def test_predict_prints_json_for_machines(capsys: Capture, bundle: Path) -> None:
    code, out, _ = run(capsys, "predict", bundle, "love it", "--json", "--top-k", "2")
    result = json.loads(out)
    assert code == 0
    assert result.keys() == {"label", "score", "scores", "labels"}
    assert len(result["scores"]) == 2


def test_predict_reads_lines_from_stdin(bundle: Path) -> None:
    done = doorstep("predict", bundle, "--json", stdin="love it\r\n\n配送很快\nno end".encode())
    given = doorstep("predict", bundle, "--json", "love it", "", "配送很快", "no end")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout == given.stdout


def test_predict_refuses_stdin_that_is_not_utf_8_by_its_line(bundle: Path) -> None:
    done = doorstep("predict", bundle, stdin=b"love it\n\xff\xfe\n")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith(b"doorstep: stdin, line 2: expected UTF-8")


def test_predict_says_why_on_stderr(capsys: Capture, bundle: Path) -> None:
    code, out, err = run(capsys, "predict", bundle, "love it", "--why", "--variant", "onnx-int8")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "→ onnx-int8" in err


def test_predict_reads_the_single_file_too(
    capsys: Capture, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOORSTEP_CACHE", str(tmp_path / "cache"))
    run(capsys, "pack", bundle, "--out", tmp_path / "reviews.zip")
    code, out, _ = run(capsys, "predict", tmp_path / "reviews.zip", "love it")
    assert (code, len(out.splitlines())) == (0, 1)


def test_a_reader_that_goes_away_is_no_error(bundle: Path) -> None:
    command = f"'{sys.executable}' -m doorstep.cli.main predict '{bundle}' {'x ' * 300} --json | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False, timeout=60)
    assert done.stderr == b""


def test_ctrl_c_is_one_line_and_exit_code_130(bundle: Path) -> None:
    command = [sys.executable, "-m", "doorstep.cli.main", "predict", str(bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"love it\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it is now waiting for more
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.returncode == 130
        assert process.stderr.read().decode().startswith("doorstep: interrupted")


def test_inspect_shows_variants_and_labels(capsys: Capture, bundle: Path) -> None:
    code, out, _ = run(capsys, "inspect", bundle)
    assert code == 0
    assert "reviews 1 · text-classification" in out
    assert "negative, neutral, positive" in out
    assert "onnx-fp32" in out


def test_inspect_prints_the_manifest_as_json(capsys: Capture, bundle: Path) -> None:
    plain = json.loads(run(capsys, "inspect", bundle, "--json")[1])
    assert plain["digest"] == Bundle.open(bundle).digest
    assert plain["options"]["labels"] == ["negative", "neutral", "positive"]


def test_verify_tells_what_was_checked(capsys: Capture, bundle: Path, keys: Path) -> None:
    code, out, _ = run(capsys, "verify", bundle)
    assert code == 0
    assert "4 files" in out
    assert "signature not checked (no trust key configured)" in out
    report = json.loads(run(capsys, "verify", bundle, "--json", "--trust", keys / "ours.pub")[1])
    assert report["signed_by"] == TrustKey.load(keys / "ours.pub").public


def test_keys_sign_and_verify_a_bundle(capsys: Capture, bundle: Path, tmp_path: Path) -> None:
    (bundle / SIGNATURE).unlink()
    assert run(capsys, "keygen", tmp_path / "key")[0] == 0
    assert run(capsys, "verify", bundle, "--trust", tmp_path / "key.pub")[0] == 1
    assert run(capsys, "sign", bundle, "--key", tmp_path / "key")[0] == 0
    assert run(capsys, "verify", bundle, "--trust", tmp_path / "key.pub")[0] == 0


def test_pack_and_unpack_give_back_the_bundle(capsys: Capture, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    code, out, _ = run(capsys, "pack", ".")
    assert (code, out.split(":")[0]) == (0, f"{bundle}.zip")
    monkeypatch.chdir(bundle.parent)
    (bundle / MANIFEST).write_text("altered")
    assert run(capsys, "unpack", "reviews.bundle.zip")[0] == 0
    assert Bundle.open(bundle).manifest.name == "reviews"


def test_unpack_never_replaces_the_file_it_reads(capsys: Capture, bundle: Path, tmp_path: Path) -> None:
    run(capsys, "pack", bundle, "--out", tmp_path / "reviews")
    code, _, err = run(capsys, "unpack", tmp_path / "reviews")
    assert code == 1
    assert "expected a folder or nothing there, got a file" in err
    assert (tmp_path / "reviews").is_file()


def test_doctor_describes_device_and_choice(capsys: Capture, bundle: Path) -> None:
    code, out, _ = run(capsys, "doctor", bundle)
    assert code == 0
    assert all(word in out for word in ("CPU", "cores", "memory", "trust key", "onnx", "openvino", "tflite"))
    assert "→ onnx-" in out
    report = json.loads(run(capsys, "doctor", "--json")[1])
    assert report["doorstep"] == __version__
    assert report["engines"]["onnxruntime"]


BAD: dict[str, tuple[list[str], str]] = {
    "no bundle": (["predict", "{tmp}/nowhere", "x"], "expected a bundle folder, got nothing there"),
    "no bundle to inspect": (["inspect", "{tmp}"], "no manifest.json in it, so this is no bundle"),
    "no bundle to verify": (["verify", "{tmp}"], "no manifest.json in it"),
    "no bundle to pack": (["pack", "{tmp}"], "no manifest.json in it"),
    "no bundle to sign": (["sign", "{tmp}", "--key", "{keys}/ours"], "no manifest.json in it"),
    "no bundle for the doctor": (["doctor", "{tmp}"], "no manifest.json in it"),
    "no archive": (["unpack", "{bundle}/golden.json", "--out", "{tmp}/out"], "expected a single-file bundle"),
    "no file": (["unpack", "{tmp}/nowhere.zip"], "expected a single-file bundle"),
    "no key": (["sign", "{bundle}", "--key", "{tmp}/nowhere"], "expected a PEM private key"),
    "no trust key": (["verify", "{bundle}", "--trust", "{tmp}/nowhere"], "expected an Ed25519 public key"),
    "another trust key": (["verify", "{bundle}", "--trust", "{keys}/theirs.pub"], "none of 1 signatures"),
    "another trust key to predict": (["predict", "{bundle}", "x", "--trust", "{keys}/theirs.pub"], "none of 1"),
    "a standing key": (["keygen", "{keys}/ours"], "keys are never overwritten"),
    "a key where no folder can be": (["keygen", "{bundle}/golden.json/key"], "File exists"),
    "an unknown variant": (["predict", "{bundle}", "x", "--variant", "onnx-int9"], "got 'onnx-int9'"),
    "no threads": (["predict", "{bundle}", "x", "--threads", "0"], "threads: expected 1 to 1024, got 0"),
    "no best": (["predict", "{bundle}", "x", "--top-k", "0"], "top_k: expected at least 1, got 0"),
    "a long text": (["predict", "{bundle}", "x" * 120_000 + "配" * 90_000], "cut it"),
    "no folder to pack into": (["pack", "{bundle}", "--out", "{tmp}/no/where.zip"], "No such file or directory"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_a_known_error_is_one_line_on_stderr_and_exit_code_1(
    capsys: Capture, bundle: Path, keys: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "work").mkdir()
    filled = [argument.format(bundle=bundle, keys=keys, tmp=tmp_path / "work") for argument in arguments]
    code, out, err = run(capsys, *filled)
    assert (code, out) == (1, "")
    assert err.startswith("doorstep: ")
    assert message in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path / "work") == []


@pytest.mark.parametrize(
    "verb", [["predict", "{}", "x"], ["verify", "{}"], ["inspect", "{}"], ["pack", "{}"], ["doctor", "{}"]]
)
def test_a_trust_key_in_the_environment_counts_for_every_verb(
    capsys: Capture, bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, str(keys / "theirs.pub"))
    code, out, err = run(capsys, *[word.format(bundle) for word in verb])
    assert (code, out) == (1, "")
    assert "none of 1 signatures is by the trusted key" in err


WITHOUT_WORKSHOP = """
import sys
sys.modules["doorstep_converters"] = None
from doorstep.cli.main import main
raise SystemExit(main(["convert", "x"]))
"""


def test_without_the_workshop_its_verbs_name_the_command_that_installs_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_WORKSHOP], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not installed; run: pip install 'doorstep[convert]'" in done.stderr


@pytest.mark.parametrize("count, text", [(91_000_000, "86.8 MiB"), (1 << 20, "1.0 MiB"), (600_000, "585.9 KiB")])
def test_sizes_keep_their_digits(count: int, text: str) -> None:
    assert mib(count) == text


def test_a_table_is_aligned_with_wide_characters() -> None:
    text = table(("名称", "ms"), [("配送", 1.5), ("a", None), ("ab", 12.0)])
    assert text.splitlines() == ["名称  ms", "────  ───", "配送  1.5", "a     –", "ab     12"]


def test_a_closed_stdin_gives_no_answers(capsys: Capture, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run(capsys, "predict", bundle) == (0, "", "")


def test_each_verb_imports_its_own_module_only() -> None:
    program = (
        "import sys; from doorstep.cli.main import main; main(['keygen', '/dev/null/x']);"
        "print(sorted(name for name in sys.modules if name.startswith('doorstep.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['doorstep.cli.keygen', 'doorstep.cli.main']"
