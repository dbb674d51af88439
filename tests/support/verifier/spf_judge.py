"""Judges SPF records: pyspf evaluates them, checkdmarc reads them.

    spf_judge.py PORT

Standard input: a JSON list of {"domain", "client", "sender", "helo"}. All of them ask the DNS server on that port. Prints a
JSON list of {"result", "why", "checkdmarc"}; the last one is "ok", or the name of checkdmarc's error. Nothing of it is inboxd's
own code.
"""

import json
import sys
import warnings

import dns.resolver

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ["127.0.0.1"]
resolver.port = int(sys.argv[1])
resolver.lifetime = 10
dns.resolver.default_resolver = resolver
# pyspf calls a function that dnspython has under another name now.
warnings.simplefilter("ignore", DeprecationWarning)

import checkdmarc.spf
import spf


def checked(domain):
    try:
        record = checkdmarc.spf.query_spf_record(domain, resolver=resolver)["record"]
        checkdmarc.spf.parse_spf_record(record, domain, resolver=resolver)
        return "ok"
    except checkdmarc.spf.SPFError as error:
        return type(error).__name__


def judge(domain, client, sender, helo):
    result, why = spf.check2(client, sender, helo)
    return {"result": result, "why": why, "checkdmarc": checked(domain)}


json.dump([judge(**asked) for asked in json.load(sys.stdin)], sys.stdout)
