"""Checks as JUnit XML, which every CI system shows."""

import re
from pathlib import Path
from xml.etree import ElementTree

from doorstep.files import write_atomic
from doorstep.verdicts import FAILED, SKIPPED, Check, Report

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def write_junit(report: Report, path: Path) -> None:
    """Write one test suite a variant and one test case a check."""
    root = ElementTree.Element("testsuites", name="doorstep check")
    for checked in report.variants:
        suite = _element(root, "testsuite", name=checked.variant, timestamp=report.origin.time.rstrip("Z"))
        suite.set("tests", str(len(checked.checks)))
        suite.set("failures", str(sum(check.outcome == FAILED for check in checked.checks)))
        suite.set("skipped", str(sum(check.outcome == SKIPPED for check in checked.checks)))
        suite.set("errors", "0")
        properties = _element(suite, "properties")
        for line in (*report.origin.lines(), f"engine   {checked.engine or 'none'}"):
            name, _, value = line.partition(" ")
            _element(properties, "property", name=name, value=value.strip())
        for check in checked.checks:
            _add(suite, f"{report.origin.bundle.split()[0]}.{checked.variant}", check)
    write_atomic(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _add(suite: ElementTree.Element, subject: str, check: Check) -> None:
    case = _element(suite, "testcase", classname=subject, name=check.name)
    found = f"{check.value:g}" if check.value is not None else "nothing measured"
    allowed = f", allowed {check.limit:g}" if check.limit is not None else ""
    if check.outcome == FAILED:
        _element(case, "failure", message=check.detail or f"found {found}{allowed}")
    elif check.outcome == SKIPPED:
        _element(case, "skipped", message=check.detail)
    _element(case, "system-out").text = _clean(f"{check.outcome}: found {found}{allowed} {check.detail}".strip())


def _element(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {name: _clean(value) for name, value in attributes.items()})


def _clean(text: str) -> str:
    """Replace what XML cannot hold, such as control characters in a label."""
    return _NO_XML.sub("\ufffd", text)
