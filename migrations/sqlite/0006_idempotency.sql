-- Answers to every call that makes something are kept, and their number is limited. Records of the earlier form compared
-- bodies as octets; they are for a day, and go.
DROP TABLE idempotent_requests;

CREATE TABLE idempotent_requests (
    id              BLOB    NOT NULL PRIMARY KEY,
    caller_key_id   BLOB    NOT NULL REFERENCES api_keys (id),
    path            TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    request_hash    BLOB    NOT NULL,       -- SHA-256 of query and body
    started_at      INTEGER NOT NULL,
    owner_id        BLOB    NOT NULL,       -- whose quota it counts against: a tenant, a workspace, or an operator's key
    number          INTEGER NOT NULL,       -- counts the requests of the owner
    status          INTEGER,                -- null: still running
    sealed_answer   BLOB,
    made            TEXT                    -- JSON: what the answer says that may not hold later
) STRICT;

CREATE UNIQUE INDEX idempotent_requests_key ON idempotent_requests (caller_key_id, path, idempotency_key);
CREATE INDEX idempotent_requests_age ON idempotent_requests (started_at);
CREATE INDEX idempotent_requests_owner ON idempotent_requests (owner_id, number);
