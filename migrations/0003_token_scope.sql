-- What one token may do of what its role may, under a name people know it by, and when it last came. Role, user and expiry are
-- sealed with them, so that nobody who can write this file can make more of a token than it is. Tokens from before have no
-- such proof: they end here.
ALTER TABLE tokens ADD COLUMN last_used_at_ms INTEGER;
ALTER TABLE tokens ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN content BLOB;
UPDATE tokens SET revoked_at_ms = created_at_ms WHERE revoked_at_ms IS NULL;
