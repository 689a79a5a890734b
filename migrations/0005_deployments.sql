-- Which model stands for a name. No version before this wrote a deployment, so the table is made anew with the states that it
-- needs. Name, model, state and every act (who, when, why) are sealed together: a row that was altered does not open, and none
-- can be made. Tokenizers say, sealed, who made them; those from before do not.
DROP TABLE deployments;
CREATE TABLE deployments (
    id            TEXT PRIMARY KEY,
    name_hash     BLOB NOT NULL,
    model         TEXT NOT NULL REFERENCES models (id),
    state         TEXT NOT NULL CHECK (state IN ('proposed', 'active', 'retired', 'rejected')),
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX deployments_active ON deployments (name_hash) WHERE state = 'active';
CREATE INDEX deployments_name ON deployments (name_hash);

ALTER TABLE tokenizers ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokenizers ADD COLUMN content BLOB;
