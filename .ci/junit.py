"""Every JUnit file of a folder, read by readers that did not write it.

junit.py SCHEMA FOLDER: libxml2 holds each file against Jenkins' schema, junitparser reads its suites and cases,
and what it counts is what the file says. The folder must hold a live, a recorded and an empty file, and hostile
ones.
"""

import pathlib
import sys
import xml.etree.ElementTree as expat

import junitparser
from lxml import etree

KINDS = {
    junitparser.Failure: "failures",
    junitparser.Error: "errors",
    junitparser.Skipped: "skipped",
}


def wrong(file, schema):
    """What is wrong with a file, one line each."""
    if not schema.validate(etree.parse(file)):
        yield from (f"{entry.line}: {entry.message}" for entry in schema.error_log)
    # A third parser, beside libxml2 and the one that the tests use.
    expat.parse(file)
    report = junitparser.JUnitXml.fromfile(str(file))
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for suite in report:
        counted = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        for case in suite:
            counted["tests"] += 1
            if len(case.result) > 1:
                yield f"{case.name!r} has {len(case.result)} results"
            for result in case.result:
                counted[KINDS[type(result)]] += 1
        for name, count in counted.items():
            if getattr(suite, name) != count:
                yield f"{suite.name!r} says {name}={getattr(suite, name)}, it holds {count}"
        for name in totals:
            totals[name] += counted[name]
    for name, count in totals.items():
        if getattr(report, name) != count:
            yield f"the file says {name}={getattr(report, name)}, it holds {count}"


def main(schema, folder):
    schema = etree.XMLSchema(etree.parse(schema))
    files = sorted(pathlib.Path(folder).glob("*.xml"))
    shapes = {file.stem.split("-")[0] for file in files}
    lacking = {"live", "recorded", "empty", "hostile"} - shapes
    if lacking:
        sys.exit(f"{folder} has no file of {', '.join(sorted(lacking))}: cargo test leaves them there")
    problems = [f"{file.name}: {line}" for file in files for line in wrong(file, schema)]
    print("\n".join(problems + [f"{len(files)} JUnit files, {len(problems)} problems"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
