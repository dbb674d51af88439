-- Tombstones belong to the workspace that gave the address up, and keys can be listed. Kept the same as migrations/sqlite/0005_tombstones.sql.

-- Of a tombstone: the workspace that gets the address at once. Null: any workspace of the tenant, because the inbox that
-- left the tombstone is not known.
ALTER TABLE addresses ADD COLUMN held_for UUID REFERENCES workspaces (id);

UPDATE addresses SET held_for = (SELECT workspace_id FROM inboxes WHERE inboxes.id = addresses.left_by)
    WHERE inbox_id IS NULL AND left_by IS NOT NULL;

-- A tenant's tombstones in the order in which they end, to release those beyond its limit; read from the index alone.
CREATE INDEX addresses_held ON addresses (tenant_id, held_until, domain, local_part, inbox_id) WHERE inbox_id IS NULL;

-- Keys of a super admin, a tenant or a workspace, without those of inboxes, which are many.
CREATE INDEX api_keys_listed ON api_keys (tenant_id, workspace_id, id) WHERE inbox_id IS NULL AND revoked_at IS NULL;
