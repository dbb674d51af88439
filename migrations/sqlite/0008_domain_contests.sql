-- Domains that change hands. Kept the same as migrations/postgres/0008_domain_contests.sql.

-- Of a registration that is proved while another tenant has the domain, or one above it, and the challenge of that one is
-- missing from DNS: the other registration, and since when it is so.
ALTER TABLE domains ADD COLUMN contests BLOB REFERENCES domains (id);
ALTER TABLE domains ADD COLUMN contested_since INTEGER;
-- Of a verified registration that has taken the domain from another one: since when, until the mail servers see it.
ALTER TABLE domains ADD COLUMN taking_over_since INTEGER;

CREATE INDEX domains_contests ON domains (contests) WHERE contests IS NOT NULL;
CREATE INDEX domains_taking_over ON domains (taking_over_since, id) WHERE taking_over_since IS NOT NULL;
