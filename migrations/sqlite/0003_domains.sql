-- Custom domains that tenants register and prove. Kept the same as migrations/postgres/0003_domains.sql.

-- What its owner has to publish to prove it; different for each registration.
ALTER TABLE domains ADD COLUMN challenge TEXT NOT NULL DEFAULT '';
ALTER TABLE domains ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
-- When DNS was last asked, what it said of each record (a JSON array), and since when one that was there is missing.
ALTER TABLE domains ADD COLUMN checked_at INTEGER;
ALTER TABLE domains ADD COLUMN findings TEXT NOT NULL DEFAULT '[]';
ALTER TABLE domains ADD COLUMN degraded_since INTEGER;
-- The inbox that gets mail to what is no address of the domain.
ALTER TABLE domains ADD COLUMN catch_all_inbox_id BLOB REFERENCES inboxes (id);
ALTER TABLE domains ADD COLUMN deleted_at INTEGER;

-- Several may register a domain, one at most has proved it.
DROP INDEX domains_registered;
DROP INDEX domains_verified;
CREATE UNIQUE INDEX domains_registered ON domains (workspace_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE verified_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX domains_named ON domains (tenant_id, name);
CREATE INDEX domains_of_tenant ON domains (tenant_id, id) WHERE deleted_at IS NULL;
CREATE INDEX domains_to_check ON domains (checked_at, id) WHERE verified_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX domains_caught ON domains (catch_all_inbox_id) WHERE catch_all_inbox_id IS NOT NULL;

-- What mail is signed with (DKIM). A key signs from when it was seen in DNS, or from the start if it is the first one.
CREATE TABLE dkim_keys (
    id                 BLOB    NOT NULL PRIMARY KEY,
    domain_id          BLOB    REFERENCES domains (id),  -- null: the service's default domain
    selector           TEXT    NOT NULL,
    algorithm          TEXT    NOT NULL,                 -- as a signature's a= names it
    public_key         BLOB    NOT NULL,                 -- what the record's p= encodes
    sealed_private_key BLOB    NOT NULL,
    created_at         INTEGER NOT NULL,
    seen_at            INTEGER,                          -- when its record was first seen
    retired_at         INTEGER                           -- since when a later key signs
) STRICT;

CREATE INDEX dkim_keys_of_domain ON dkim_keys (domain_id, id);
