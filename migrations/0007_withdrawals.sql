-- Whoever proposed a deployment can take the proposal back: one more state. SQLite changes no CHECK in place, so the table is made
-- anew, with its rows as they were sealed.
CREATE TABLE deployments_anew (
    id            TEXT PRIMARY KEY,
    name_hash     BLOB NOT NULL,
    model         TEXT NOT NULL REFERENCES models (id),
    state         TEXT NOT NULL CHECK (state IN ('proposed', 'active', 'retired', 'rejected', 'withdrawn')),
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
INSERT INTO deployments_anew SELECT id, name_hash, model, state, created_at_ms, version, content FROM deployments;
DROP TABLE deployments;
ALTER TABLE deployments_anew RENAME TO deployments;
CREATE UNIQUE INDEX deployments_active ON deployments (name_hash) WHERE state = 'active';
CREATE INDEX deployments_name ON deployments (name_hash);
