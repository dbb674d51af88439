-- Rows that were deleted have an end. Kept the same as migrations/postgres/0009_removal.sql.

-- What was deleted or revoked, in the order in which it was.
CREATE INDEX api_keys_revoked ON api_keys (revoked_at, id) WHERE revoked_at IS NOT NULL;
CREATE INDEX domains_deleted ON domains (deleted_at, id) WHERE deleted_at IS NOT NULL;
CREATE INDEX inboxes_deleted ON inboxes (deleted_at, id) WHERE deleted_at IS NOT NULL;
CREATE INDEX workspaces_deleted ON workspaces (deleted_at, id) WHERE deleted_at IS NOT NULL;
-- Tombstones in the order in which they end.
CREATE INDEX addresses_ended ON addresses (held_until) WHERE inbox_id IS NULL;

-- What refers to a row, of deleted and revoked ones, too: a row goes when nothing does.
CREATE INDEX addresses_held_for ON addresses (held_for) WHERE held_for IS NOT NULL;
CREATE INDEX domains_of_workspace ON domains (workspace_id);
DROP INDEX api_keys_of_inbox;
CREATE INDEX api_keys_of_inbox ON api_keys (inbox_id) WHERE inbox_id IS NOT NULL;
DROP INDEX api_keys_of_workspace;
CREATE INDEX api_keys_of_workspace ON api_keys (workspace_id, id) WHERE workspace_id IS NOT NULL;
DROP INDEX inboxes_of_workspace;
CREATE INDEX inboxes_of_workspace ON inboxes (workspace_id, id);
