"""Shows whom Python's mail readers take a message to be from.

    readers.py python | mail-parser

Reads messages, one a line in base64, and prints one JSON object a line: reader -> the addresses that it shows as author or
sender, or null when it raises an exception. Nothing of it is inboxd's own code.
"""

import base64
import email
import email.policy
import json
import sys
from email.header import decode_header, make_header
from email.utils import getaddresses

FIELDS = ["From", "Sender", "Resent-From", "Resent-Sender"]


def of_policy(octets):
    """The parser of today: structured headers."""
    message = email.message_from_bytes(octets, policy=email.policy.default)
    fields = [field for name in FIELDS for field in message.get_all(name, [])]
    return [address.addr_spec for field in fields for address in field.addresses]


def values(octets):
    message = email.message_from_bytes(octets, policy=email.policy.compat32)
    return [value for name in FIELDS for value in message.get_all(name, [])]


def of_compat(octets):
    """The parser that most programs use, and its getaddresses."""
    return [address for _, address in getaddresses([str(value) for value in values(octets)])]


def of_decoded(octets):
    """The same by programs that decode first and take apart then."""
    decoded = [str(make_header(decode_header(value))) for value in values(octets)]
    return [address for _, address in getaddresses(decoded)]


def of_mail_parser(octets):
    """It takes only From apart."""
    import mailparser

    return [address for _, address in mailparser.parse_from_bytes(octets).from_]


READERS = {
    "python": {
        "email.policy.default": of_policy,
        "email.policy.compat32": of_compat,
        "email, decoded first": of_decoded,
    },
    "mail-parser": {"mail-parser": of_mail_parser},
}

for line in sys.stdin:
    shown = {}
    for name, reader in READERS[sys.argv[1]].items():
        try:
            addresses = reader(base64.b64decode(line))
            # Octets that are no text are surrogates here, which JSON in UTF-8 cannot hold.
            shown[name] = [address.encode(errors="replace").decode() for address in addresses]
        except Exception as error:  # any: it is the reader that is judged
            print(name, repr(error), file=sys.stderr)
            shown[name] = None
    print(json.dumps(shown))
