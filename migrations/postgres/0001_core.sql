-- The core of the store. Kept the same, table by table and column by column, as migrations/sqlite/0001_core.sql.
--
-- Times are microseconds since the Unix epoch, UTC. Ids are UUIDs of version 7. Where something can be true or
-- false, a nullable time says since when it is true.

-- Facts about the store itself.
CREATE TABLE meta (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE tenants (
    id                   UUID NOT NULL PRIMARY KEY,
    name                 TEXT COLLATE "C" NOT NULL,
    default_workspace_id UUID NOT NULL,  -- in workspaces, made in the same transaction
    max_inboxes          BIGINT,           -- null: no cap
    max_domains          BIGINT,
    max_workspaces       BIGINT,
    inbox_count          BIGINT NOT NULL,  -- live inboxes, so that a cap is checked without counting
    workspace_count      BIGINT NOT NULL,
    created_at           BIGINT NOT NULL,
    suspended_at         BIGINT,
    deleted_at           BIGINT
);

CREATE TABLE workspaces (
    id          UUID NOT NULL PRIMARY KEY,
    tenant_id   UUID NOT NULL REFERENCES tenants (id),
    name        TEXT COLLATE "C" NOT NULL,
    slug        TEXT COLLATE "C" NOT NULL,
    inbox_count BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    deleted_at  BIGINT
);

CREATE UNIQUE INDEX workspaces_slug ON workspaces (tenant_id, slug) WHERE deleted_at IS NULL;
CREATE INDEX workspaces_of_tenant ON workspaces (tenant_id, id) WHERE deleted_at IS NULL;

-- Custom domains. The service's default domain is configuration and has no row.
CREATE TABLE domains (
    id           UUID NOT NULL PRIMARY KEY,
    tenant_id    UUID NOT NULL REFERENCES tenants (id),
    workspace_id UUID NOT NULL REFERENCES workspaces (id),
    name         TEXT COLLATE "C" NOT NULL,  -- A-labels, lower case
    created_at   BIGINT NOT NULL,
    verified_at  BIGINT
);

CREATE UNIQUE INDEX domains_registered ON domains (workspace_id, name);
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE verified_at IS NOT NULL;

CREATE TABLE inboxes (
    id                   UUID NOT NULL PRIMARY KEY,
    tenant_id            UUID NOT NULL REFERENCES tenants (id),
    workspace_id         UUID NOT NULL REFERENCES workspaces (id),
    local_part           TEXT COLLATE "C" NOT NULL,  -- of the canonical address
    domain               TEXT COLLATE "C" NOT NULL,
    requested_local_part TEXT COLLATE "C",              -- null: no username was asked for
    display_name         TEXT COLLATE "C",
    metadata             TEXT COLLATE "C" NOT NULL,  -- a JSON object
    password_hash        TEXT COLLATE "C" NOT NULL,  -- {SCHEME}value, as Dovecot reads it
    sealed_password      BYTEA,              -- null: not recoverable
    created_at           BIGINT NOT NULL,
    acknowledged_at      BIGINT,           -- when a 201 was sent; null: the creation is unfinished
    deleted_at           BIGINT
);

CREATE INDEX inboxes_of_tenant ON inboxes (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_of_workspace ON inboxes (workspace_id, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_named ON inboxes (tenant_id, local_part, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_requested ON inboxes (tenant_id, domain, requested_local_part, id) WHERE deleted_at IS NULL;
CREATE INDEX inboxes_unfinished ON inboxes (workspace_id, domain, id) WHERE acknowledged_at IS NULL AND deleted_at IS NULL;

-- The one namespace of names: canonical addresses, further addresses, and tombstones of deleted ones.
CREATE TABLE addresses (
    domain        TEXT COLLATE "C" NOT NULL,
    local_part    TEXT COLLATE "C" NOT NULL,
    tenant_id     UUID NOT NULL REFERENCES tenants (id),
    inbox_id      UUID REFERENCES inboxes (id) DEFERRABLE INITIALLY DEFERRED,  -- null: a tombstone
    primary_since BIGINT,                  -- null: not the primary address
    held_until    BIGINT,                  -- of a tombstone: until then only the same tenant gets the address
    PRIMARY KEY (domain, local_part),
    CHECK ((inbox_id IS NULL) = (held_until IS NOT NULL)),
    CHECK (inbox_id IS NOT NULL OR primary_since IS NULL)
);

CREATE INDEX addresses_of_inbox ON addresses (inbox_id) WHERE inbox_id IS NOT NULL;
CREATE UNIQUE INDEX addresses_primary ON addresses (inbox_id) WHERE primary_since IS NOT NULL;

-- API keys. What a key reaches follows from which of the three owners are set: none, super admin; then tenant,
-- workspace, inbox.
CREATE TABLE api_keys (
    id           UUID NOT NULL PRIMARY KEY,
    hash         BYTEA NOT NULL,          -- SHA-256 of the whole key
    fragment     TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C",
    tenant_id    UUID REFERENCES tenants (id),
    workspace_id UUID REFERENCES workspaces (id),
    inbox_id     UUID REFERENCES inboxes (id),
    created_at   BIGINT NOT NULL,
    revoked_at   BIGINT,
    CHECK (workspace_id IS NULL OR tenant_id IS NOT NULL),
    CHECK (inbox_id IS NULL OR workspace_id IS NOT NULL)
);

CREATE UNIQUE INDEX api_keys_hash ON api_keys (hash);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id) WHERE tenant_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX api_keys_of_workspace ON api_keys (workspace_id, id) WHERE workspace_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX api_keys_of_inbox ON api_keys (inbox_id) WHERE inbox_id IS NOT NULL AND revoked_at IS NULL;

-- Keys of the maps whose published state may be behind the store. Written in the transaction of the change; a
-- mark is cleared only if it is still the one that was published.
CREATE TABLE unpublished (
    map_key            TEXT COLLATE "C" NOT NULL PRIMARY KEY,  -- local-part@domain, or a domain
    mark               UUID NOT NULL,
    end_sessions_since BIGINT -- open sessions of this login have to be ended, too
);

CREATE UNIQUE INDEX unpublished_mark ON unpublished (mark);

-- Answers kept for Idempotency-Key.
CREATE TABLE idempotent_requests (
    id              UUID NOT NULL PRIMARY KEY,
    caller_key_id   UUID NOT NULL REFERENCES api_keys (id),
    path            TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    request_hash    BYTEA NOT NULL,       -- SHA-256 of query and body
    started_at      BIGINT NOT NULL,
    status          BIGINT,                -- null: still running
    sealed_answer   BYTEA,
    inbox_id        UUID REFERENCES inboxes (id)
);

CREATE UNIQUE INDEX idempotent_requests_key ON idempotent_requests (caller_key_id, path, idempotency_key);
CREATE INDEX idempotent_requests_age ON idempotent_requests (started_at);
