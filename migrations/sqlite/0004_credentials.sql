-- Which of an inbox's credentials are in force. Kept the same as migrations/postgres/0004_credentials.sql.

-- Counts rotations and suspensions, from 1; part of the name that Postfix knows a login by.
ALTER TABLE inboxes ADD COLUMN credential_generation INTEGER NOT NULL DEFAULT 1;
