"""Certificates and revocation lists under pkilint, which holds them to RFC 5280 and its kin.

Enters: files. Leaves: a check for each. Whatever pkilint calls an error or fatal fails, but for what is admitted here with its reason.
"""

import json
import pathlib
import re
import sys

from harness import check, run

# Findings that stay: the code, the whole message, and why.
ADMITTED = [
    # A host name of one label is one (RFC 1123 2.1); pkilint asks for a dot. A broker in a plant is reached by such names.
    ("pkix.invalid_domain_name_syntax", r'Invalid domain name syntax: "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"'),
    # RFC 3986 admits any scheme, and RFC 5280 4.2.1.6 too; pkilint knows those of the web alone.
    ("pkix.invalid_uri_syntax", r'Invalid URI syntax: "spiffe://plant\.example/device/[a-z0-9-]+"'),
]


def admitted(finding):
    return any(finding["code"] == code and re.fullmatch(words, finding.get("message") or "") for code, words in ADMITTED)


def _findings(command, *arguments):
    # The number of findings is its exit code.
    done = run(pathlib.Path(sys.executable).parent / command, "lint", "-s", "ERROR", "-f", "JSON", *arguments, expect=None)
    text = done.stdout.decode()
    if not text.lstrip().startswith("{"):
        return [f"{command} has not judged it: {done.stderr.decode()[-400:]}"]
    found = []
    for result in json.loads(text)["results"]:
        for finding in result["finding_descriptions"]:
            if not admitted(finding):
                found.append(f"{finding['code']} at {result['node_path']}: {finding.get('message')}")
    return found


def faults(path):
    """Of one certificate, PEM or DER."""
    return _findings("lint_pkix_cert", path)


def certificate(path, what):
    found = faults(path)
    check(not found, f"pkilint finds no fault in {what}", found)


def revocation_list(path, what):
    found = _findings("lint_crl", "-t", "CRL", "-p", "PKIX", path)
    check(not found, f"pkilint finds no fault in {what}", found)
