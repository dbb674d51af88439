"""Prints the test suite of RFC 7208 (rfc7208-tests.yml, by openspf.org) as JSON.

    spf_suite.py FILE

A list of scenarios {"description", "zone": {name: [[type, value], ...]}, "tests": [{"name", "client", "helo", "sender",
"results"}]}. The type "TIMEOUT" stands for a name that does not answer what it has no record of. Records of the type SPF stand
for TXT records, where a name has none of its own.
"""

import json
import sys

import yaml


def records(entries):
    """The records of a name, as pairs of type and value."""
    found = []
    for entry in entries:
        found.extend(entry.items() if isinstance(entry, dict) else [(entry, None)])
    has_txt = any(kind == "TXT" for kind, _ in found)
    for kind, value in found:
        if kind == "SPF" and not has_txt:
            kind = "TXT"
        if kind == "TXT":
            value = [value] if isinstance(value, str) else value
            if value != ["NONE"]:
                yield [kind, "".join(value)]
        elif kind == "MX":
            yield [kind, value[1]]
        elif kind != "SPF":
            yield [kind, value]


def scenario(data):
    return {
        "description": data["description"],
        "zone": {name.lower(): list(records(entries)) for name, entries in data["zonedata"].items()},
        "tests": [
            {
                "name": name,
                "client": test["host"],
                "helo": test["helo"],
                "sender": test["mailfrom"],
                "results": test["result"] if isinstance(test["result"], list) else [test["result"]],
            }
            for name, test in data["tests"].items()
        ],
    }


with open(sys.argv[1], encoding="utf-8") as file:
    json.dump([scenario(data) for data in yaml.safe_load_all(file)], sys.stdout)
