-- Answers to every call that makes something are kept, and their number is limited. Records of the earlier form compared
-- bodies as octets; they are for a day, and go.
DROP TABLE idempotent_requests;

CREATE TABLE idempotent_requests (
    id              UUID NOT NULL PRIMARY KEY,
    caller_key_id   UUID NOT NULL REFERENCES api_keys (id),
    path            TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    request_hash    BYTEA NOT NULL,       -- SHA-256 of query and body
    started_at      BIGINT NOT NULL,
    owner_id        UUID NOT NULL,        -- whose quota it counts against: a tenant, a workspace, or an operator's key
    number          BIGINT NOT NULL,      -- counts the requests of the owner
    status          BIGINT,               -- null: still running
    sealed_answer   BYTEA,
    made            TEXT COLLATE "C"      -- JSON: what the answer says that may not hold later
);

CREATE UNIQUE INDEX idempotent_requests_key ON idempotent_requests (caller_key_id, path, idempotency_key);
CREATE INDEX idempotent_requests_age ON idempotent_requests (started_at);
CREATE INDEX idempotent_requests_owner ON idempotent_requests (owner_id, number);
