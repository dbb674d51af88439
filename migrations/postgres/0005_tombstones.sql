-- Tombstones belong to the workspace that gave the address up. Kept the same as migrations/sqlite/0005_tombstones.sql.

-- Of a tombstone: the workspace that gets the address at once. Null: any workspace of the tenant, because the inbox that
-- left the tombstone is not known.
ALTER TABLE addresses ADD COLUMN held_for UUID REFERENCES workspaces (id);

UPDATE addresses SET held_for = (SELECT workspace_id FROM inboxes WHERE inboxes.id = addresses.left_by)
    WHERE inbox_id IS NULL AND left_by IS NOT NULL;

-- A tenant's tombstones in the order in which they end, to release those beyond its limit; read from the index alone.
CREATE INDEX addresses_held ON addresses (tenant_id, held_until, domain, local_part, inbox_id) WHERE inbox_id IS NULL;
