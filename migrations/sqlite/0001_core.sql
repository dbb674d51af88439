-- The core of the store. Kept the same, table by table and column by column, as migrations/postgres/0001_core.sql.
--
-- Times are microseconds since the Unix epoch, UTC. Ids are UUIDs of version 7. Where something can be true or
-- false, a nullable time says since when it is true.

-- Facts about the store itself.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE tenants (
    id                   BLOB    NOT NULL PRIMARY KEY,
    name                 TEXT    NOT NULL,
    default_workspace_id BLOB    NOT NULL,  -- in workspaces, made in the same transaction
    max_inboxes          INTEGER,           -- null: no cap
    max_domains          INTEGER,
    max_workspaces       INTEGER,
    inbox_count          INTEGER NOT NULL,  -- live inboxes, so that a cap is checked without counting
    workspace_count      INTEGER NOT NULL,
    created_at           INTEGER NOT NULL,
    suspended_at         INTEGER,
    deleted_at           INTEGER
) STRICT;

CREATE TABLE workspaces (
    id          BLOB    NOT NULL PRIMARY KEY,
    tenant_id   BLOB    NOT NULL REFERENCES tenants (id),
    name        TEXT    NOT NULL,
    slug        TEXT    NOT NULL,
    inbox_count INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX workspaces_slug ON workspaces (tenant_id, slug) WHERE deleted_at IS NULL;
CREATE INDEX workspaces_of_tenant ON workspaces (tenant_id, id) WHERE deleted_at IS NULL;

-- Custom domains. The service's default domain is configuration and has no row.
CREATE TABLE domains (
    id           BLOB    NOT NULL PRIMARY KEY,
    tenant_id    BLOB    NOT NULL REFERENCES tenants (id),
    workspace_id BLOB    NOT NULL REFERENCES workspaces (id),
    name         TEXT    NOT NULL,  -- A-labels, lower case
    created_at   INTEGER NOT NULL,
    verified_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX domains_registered ON domains (workspace_id, name);
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE verified_at IS NOT NULL;

CREATE TABLE inboxes (
    id                   BLOB    NOT NULL PRIMARY KEY,
    tenant_id            BLOB    NOT NULL REFERENCES tenants (id),
    workspace_id         BLOB    NOT NULL REFERENCES workspaces (id),
    local_part           TEXT    NOT NULL,  -- of the canonical address
    domain               TEXT    NOT NULL,
    requested_local_part TEXT,              -- null: no username was asked for
    display_name         TEXT,
    metadata             TEXT    NOT NULL,  -- a JSON object
    password_hash        TEXT    NOT NULL,  -- {SCHEME}value, as Dovecot reads it
    sealed_password      BLOB,              -- null: not recoverable
    created_at           INTEGER NOT NULL,
    acknowledged_at      INTEGER,           -- when a 201 was sent; null: the creation is unfinished
    deleted_at           INTEGER
) STRICT;

CREATE INDEX inboxes_of_tenant ON inboxes (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_of_workspace ON inboxes (workspace_id, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_named ON inboxes (tenant_id, local_part, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_requested ON inboxes (tenant_id, domain, requested_local_part, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_unfinished ON inboxes (workspace_id, domain, id) WHERE acknowledged_at IS NULL AND deleted_at IS NULL;

-- The one namespace of names: canonical addresses, further addresses, and tombstones of deleted ones.
CREATE TABLE addresses (
    domain        TEXT    NOT NULL,
    local_part    TEXT    NOT NULL,
    tenant_id     BLOB    NOT NULL REFERENCES tenants (id),
    inbox_id      BLOB    REFERENCES inboxes (id) DEFERRABLE INITIALLY DEFERRED,  -- null: a tombstone
    primary_since INTEGER,                  -- null: not the primary address
    held_until    INTEGER,                  -- of a tombstone: until then only the same tenant gets the address
    PRIMARY KEY (domain, local_part),
    CHECK ((inbox_id IS NULL) = (held_until IS NOT NULL)),
    CHECK (inbox_id IS NOT NULL OR primary_since IS NULL)
) STRICT;

CREATE INDEX addresses_of_inbox ON addresses (inbox_id) WHERE inbox_id IS NOT NULL;
CREATE UNIQUE INDEX addresses_primary ON addresses (inbox_id) WHERE primary_since IS NOT NULL;

-- API keys. What a key reaches follows from which of the three owners are set: none, super admin; then tenant,
-- workspace, inbox.
CREATE TABLE api_keys (
    id           BLOB    NOT NULL PRIMARY KEY,
    hash         BLOB    NOT NULL,          -- SHA-256 of the whole key
    fragment     TEXT    NOT NULL,
    name         TEXT,
    tenant_id    BLOB    REFERENCES tenants (id),
    workspace_id BLOB    REFERENCES workspaces (id),
    inbox_id     BLOB    REFERENCES inboxes (id),
    created_at   INTEGER NOT NULL,
    revoked_at   INTEGER,
    CHECK (workspace_id IS NULL OR tenant_id IS NOT NULL),
    CHECK (inbox_id IS NULL OR workspace_id IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id) WHERE tenant_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX api_keys_of_workspace ON api_keys (workspace_id, id) WHERE workspace_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX api_keys_of_inbox ON api_keys (inbox_id) WHERE inbox_id IS NOT NULL AND revoked_at IS NULL;

-- Keys of the maps whose published state may be behind the store. Written in the transaction of the change; a
-- mark is cleared only if it is still the one that was published.
CREATE TABLE unpublished (
    map_key            TEXT    NOT NULL PRIMARY KEY,  -- local-part@domain, or a domain
    mark               BLOB    NOT NULL,
    end_sessions_since INTEGER                        -- open sessions of this login have to be ended, too
) STRICT;

CREATE UNIQUE INDEX unpublished_mark ON unpublished (mark);

-- Answers kept for Idempotency-Key.
CREATE TABLE idempotent_requests (
    id              BLOB    NOT NULL PRIMARY KEY,
    caller_key_id   BLOB    NOT NULL REFERENCES api_keys (id),
    path            TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    request_hash    BLOB    NOT NULL,       -- SHA-256 of query and body
    started_at      INTEGER NOT NULL,
    status          INTEGER,                -- null: still running
    sealed_answer   BLOB,
    inbox_id        BLOB    REFERENCES inboxes (id)
) STRICT;

CREATE UNIQUE INDEX idempotent_requests_key ON idempotent_requests (caller_key_id, path, idempotency_key);
CREATE INDEX idempotent_requests_age ON idempotent_requests (started_at);
