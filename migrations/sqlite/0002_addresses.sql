-- Addresses that come and go. Kept the same as migrations/postgres/0002_addresses.sql.

-- Of a tombstone: the inbox that left it, so that a removal whose caller was told to try again can be found.
ALTER TABLE addresses ADD COLUMN left_by BLOB REFERENCES inboxes (id);

CREATE INDEX addresses_left ON addresses (left_by) WHERE left_by IS NOT NULL;
