"""Writes messages with signatures (dkimpy) and ARC sets, as senders and forwarders do.

Standard input: {"keys": {"rsa": PEM, "ed25519": base64}, "messages": [{"text", "steps": [...]}]}, where a step is one of

    {"sign": {"domain", "selector", "key", "form", "extra", "unsigned", "length", "algorithm"}}
    {"seal": {"domain", "selector", "host", "results"}}
    {"replace": [from, to]}

Prints a JSON list of the messages, each octet a character.
"""

import json
import sys

import dkim

given = json.load(sys.stdin)
keys = {name: key.encode() for name, key in given["keys"].items()}


class Signer(dkim.DKIM):
    """Adds tags that dkimpy does not write, and leaves fields unsigned that it insists on."""

    extra = []
    unsigned = None

    def gen_header(self, fields, include_headers, canon_policy, header_name, pk, standardize=False):
        if self.unsigned:
            include_headers = tuple(name for name in include_headers if name != self.unsigned)
            fields = [(tag, b" : ".join(include_headers) if tag == b"h" else value) for tag, value in fields]
        fields = fields[:-2] + self.extra + fields[-2:]
        return super().gen_header(fields, include_headers, canon_policy, header_name, pk, standardize)


def sign(text, domain, selector, key="rsa", form="relaxed/relaxed", extra=None, unsigned=None, length=False, algorithm=None):
    signer = Signer(text)
    signer.extra = [(tag.encode(), value.encode()) for tag, value in (extra or {}).items()]
    signer.unsigned = unsigned and unsigned.encode()
    algorithm = algorithm or key + "-sha256"
    field = signer.sign(
        selector.encode(),
        domain.encode(),
        keys[key],
        signature_algorithm=algorithm.encode(),
        canonicalize=tuple(part.encode() for part in form.split("/")),
        include_headers=[b"from", b"to", b"subject"],
        length=length,
    )
    return field.rstrip(b"\r\n") + b"\r\n" + text


def seal(text, domain, selector, host, results):
    text = f"Authentication-Results: {host}; {results}\r\n".encode() + text
    fields = dkim.arc_sign(text, selector.encode(), domain.encode(), keys["rsa"], host.encode(), [b"from", b"to", b"subject"])
    return b"".join(field.rstrip(b"\r\n") + b"\r\n" for field in fields) + text


written = []
for message in given["messages"]:
    text = message["text"].encode("latin-1")
    for step in message["steps"]:
        if "sign" in step:
            text = sign(text, **step["sign"])
        elif "seal" in step:
            text = seal(text, **step["seal"])
        else:
            old, new = (part.encode("latin-1") for part in step["replace"])
            assert old in text, (old, text)
            text = text.replace(old, new, 1)
    written.append(text.decode("latin-1"))
json.dump(written, sys.stdout)
