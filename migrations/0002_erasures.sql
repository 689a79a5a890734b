-- Erasures. The rows of what was erased stay as structure (identifiers, times, sizes, states); their content is gone.
-- The content here is keyed hashes, identifiers, counts, and once it is done the signed certificate.

CREATE TABLE erasures (
    id            TEXT PRIMARY KEY,
    state         TEXT NOT NULL CHECK (state IN ('pending', 'done')),
    actor         TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    done_at_ms    INTEGER,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
CREATE INDEX erasures_pending ON erasures (id) WHERE state = 'pending';
