"""Judges a received message: DKIM by dkimpy, the SPF and DMARC records by checkdmarc, asking the DNS server that is named.

    verify.py PORT MESSAGE-FILE CLIENT-ADDRESS ENVELOPE-SENDER

Prints one JSON object. Nothing of it is inboxd's own code.
"""

import email
import email.utils
import json
import sys

import dkim
import dns.resolver
from checkdmarc.dmarc import check_dmarc
from checkdmarc.spf import check_spf

port, path, client, sender = sys.argv[1:]
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ["127.0.0.1"]
resolver.port = int(port)
resolver.lifetime = 5


def txt(name, timeout=5):
    """What dkimpy asks DNS with; it must be octets, or nothing."""
    try:
        answer = resolver.resolve(name.decode().rstrip("."), "TXT")
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return None
    return b"".join(answer[0].strings)


with open(path, "rb") as file:
    message = file.read()
parsed = email.message_from_bytes(message)
author = email.utils.parseaddr(str(parsed["From"]))[1].rpartition("@")[2].lower()
envelope = sender.rpartition("@")[2].lower()

signatures = []
for index, value in enumerate(parsed.get_all("DKIM-Signature", [])):
    tags = dkim.util.parse_tag_value(value.encode())
    verifier = dkim.DKIM(message)
    try:
        verdict = verifier.verify(idx=index, dnsfunc=txt)
        reason = ""
    except dkim.DKIMException as error:
        verdict, reason = False, str(error)
    signatures.append(
        {
            "domain": tags[b"d"].decode(),
            "selector": tags[b"s"].decode(),
            "algorithm": tags[b"a"].decode(),
            "verified": verdict,
            "reason": reason,
        }
    )

spf = check_spf(envelope, resolver=resolver)
# checkdmarc reads the record; whose address it lets pass is looked up here (RFC 7208, 5.4).
hosts = [
    host["hostname"]
    for mechanism in spf["parsed"]["mechanisms"]
    if mechanism["action"] == "pass"
    for host in mechanism.get("hosts", [])
]
passing = [str(address) for host in hosts for address in resolver.resolve(host, "A")]
spf["passes"] = client in passing
dmarc = check_dmarc(author, resolver=resolver)
print(
    json.dumps(
        {
            "author": author,
            "envelope": envelope,
            "signatures": signatures,
            "spf": spf,
            "dmarc": dmarc,
        },
        default=str,
    )
)
