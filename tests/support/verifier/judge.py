"""Judges arriving messages: SPF by pyspf, DKIM by dkimpy, ARC and DMARC (RFC 7489) by authheaders.

    judge.py PORT

Standard input: a JSON list of {"text", "client", "helo", "sender"}. All of them ask the DNS server on that port. Prints a
JSON list of {"spf", "dkim": [...], "dmarc", "policy", "arc"}. Nothing of it is inboxd's own code.
"""

import json
import sys

import dns.exception
import dns.resolver

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ["127.0.0.1"]
resolver.port = int(sys.argv[1])
resolver.lifetime = 10
dns.resolver.default_resolver = resolver

import authheaders
import dkim
import spf
from authres import DKIMAuthenticationResult, SPFAuthenticationResult


def txt(name, timeout=5):
    """What dkimpy asks DNS with: octets, or nothing. A server that fails is an error, not an answer."""
    try:
        answer = resolver.resolve(name.decode() if isinstance(name, bytes) else name, "TXT")
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return None
    except dns.resolver.NoNameservers as error:
        raise dns.exception.Timeout from error
    return b"".join(answer[0].strings)


def signatures(text):
    """The verdict on each signature, and its domain."""
    count = sum(name.lower() == b"dkim-signature" for name, _ in dkim.DKIM(text).headers)
    found = []
    for index in range(count):
        verifier = dkim.DKIM(text)
        try:
            verdict = "pass" if verifier.verify(idx=index, dnsfunc=txt) else "fail"
        except dns.exception.Timeout:
            verdict = "temperror"
        except dkim.DKIMException:
            verdict = "fail"
        domain = verifier.signature_fields.get(b"d", b"").decode("ascii", "replace")
        found.append((verdict, domain))
    return found


def judge(text, client, helo, sender):
    text = text.encode("latin-1")
    result, _ = spf.check2(client, sender, helo)
    envelope = sender or "postmaster@" + helo
    spf_result = SPFAuthenticationResult(result=result, smtp_mailfrom=envelope, smtp_helo=helo)
    found = signatures(text)
    # DMARC takes one signature at a time; one that passes is enough.
    verdicts = []
    for verdict, domain in found or [("none", "")]:
        signature = DKIMAuthenticationResult(result=verdict, header_d=domain)
        verdicts.append(authheaders.check_dmarc(text, spf_result, signature))
        # It shortens the address to its domain.
        spf_result.smtp_mailfrom = envelope
    passed = [verdict for verdict in verdicts if verdict.result == "pass"]
    dmarc = (passed or verdicts)[0]
    return {
        "spf": result,
        "dkim": [verdict for verdict, _ in found],
        "dmarc": dmarc.result,
        "policy": dmarc.policy or "none",
        "arc": authheaders.check_arc(text, dnsfunc=txt).result,
    }


json.dump([judge(**message) for message in json.load(sys.stdin)], sys.stdout)
