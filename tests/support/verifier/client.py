"""What a program writes that was made for inboxd with openapi-python-client: checked with `mypy --strict`, and run.

Usage: client.py BASE_URL TENANT_KEY
"""

import importlib
import pkgutil
import sys
import types
import typing

import attrs

import inboxd_client.api
from inboxd_client import AuthenticatedClient
from inboxd_client.api.inboxes import create_inbox, get_inbox, update_inbox
from inboxd_client.models import (
    CreatedInbox,
    CreateInbox,
    CreateInboxMetadataType0,
    Error,
    ExistingInbox,
    Inbox,
    UpdateInbox,
    UpdateInboxMetadataType0,
    Updated,
)


def metadata_is_set_and_cleared(client: AuthenticatedClient) -> None:
    metadata = CreateInboxMetadataType0.from_dict({"customer": "c-42", "seats": [1, 2]})
    wanted = CreateInbox(username="scout", metadata=metadata)
    made = create_inbox.sync(client=client, body=wanted)
    assert isinstance(made, CreatedInbox), made
    assert made.metadata.to_dict() == {"customer": "c-42", "seats": [1, 2]}, made.metadata
    assert made.imap.password == made.imap_password, "the password is in both places"
    again = create_inbox.sync(client=client, body=wanted)
    assert isinstance(again, ExistingInbox) and again.id == made.id, again

    def changed(change: UpdateInbox) -> dict[str, typing.Any]:
        answer = update_inbox.sync(id=made.id, client=client, body=change)
        assert isinstance(answer, Updated) and answer.updated, answer
        inbox = get_inbox.sync(id=made.id, client=client)
        assert isinstance(inbox, Inbox), inbox
        return inbox.metadata.to_dict()

    one = UpdateInboxMetadataType0.from_dict({"customer": None, "region": "eu"})
    assert changed(UpdateInbox(metadata=one)) == {"seats": [1, 2], "region": "eu"}
    assert changed(UpdateInbox(metadata=None)) == {}
    # What is left out is not sent, and stays.
    assert UpdateInbox(display_name="Scout").to_dict() == {"displayName": "Scout"}


def sentence(error: Error) -> str:
    return f"{error.code}: {error.error}"


def errors_are_read(client: AuthenticatedClient) -> None:
    refused = create_inbox.sync(client=client, body=CreateInbox(username="Scout"))
    assert isinstance(refused, Error), refused
    assert refused.field == "username", refused
    assert sentence(refused).startswith("VALIDATION_ERROR: username: must be"), refused
    stranger = AuthenticatedClient(base_url=str(client.get_httpx_client().base_url), token="tk_wrong")
    unknown = create_inbox.sync(client=stranger, body=CreateInbox())
    assert isinstance(unknown, Error) and unknown.code == "INVALID_API_KEY", unknown


def every_call_has_the_same_error_type() -> None:
    calls = 0
    for module_info in pkgutil.walk_packages(inboxd_client.api.__path__, "inboxd_client.api."):
        module = importlib.import_module(module_info.name)
        call: types.FunctionType | None = getattr(module, "sync", None)
        if call is None:
            continue
        answers = typing.get_args(typing.get_type_hints(call)["return"])
        errors = {kind for kind in answers if attrs.has(kind) and "code" in attrs.fields_dict(kind)}
        # Of a page and of the metrics no body is described.
        assert errors <= {Error}, (module_info.name, answers)
        calls += len(errors)
    assert calls >= 38, calls


def main() -> None:
    base, key = sys.argv[1:]
    with AuthenticatedClient(base_url=base, token=key) as client:
        metadata_is_set_and_cleared(client)
        errors_are_read(client)
    every_call_has_the_same_error_type()


main()
