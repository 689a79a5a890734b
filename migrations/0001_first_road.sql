-- The tables of the first road. Structure stands in the clear: identifiers, times (Unix milliseconds), sizes,
-- states, keyed hashes. Every column named `content` is sealed under a key of its row; `version` counts how
-- often it was sealed and is part of what the seal is bound to.

CREATE TABLE install (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    id            TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;

CREATE TABLE collections (
    number        INTEGER PRIMARY KEY,
    name_hash     BLOB NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;

CREATE TABLE documents (
    id             TEXT PRIMARY KEY,
    collection     INTEGER NOT NULL REFERENCES collections (number),
    name_hash      BLOB NOT NULL,
    content_hash   BLOB NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('current', 'replaced', 'erased')),
    replaced_by    TEXT,
    format         TEXT NOT NULL,
    source_bytes   INTEGER NOT NULL,
    text_bytes     INTEGER NOT NULL,
    job            TEXT,
    ingested_at_ms INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    content        BLOB
) STRICT;
CREATE UNIQUE INDEX documents_current ON documents (collection, name_hash) WHERE state = 'current';
CREATE INDEX documents_content ON documents (content_hash);

CREATE TABLE document_subjects (
    document     TEXT NOT NULL REFERENCES documents (id),
    subject_hash BLOB NOT NULL,
    PRIMARY KEY (document, subject_hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX document_subjects_subject ON document_subjects (subject_hash);

CREATE TABLE quarantine (
    id            TEXT PRIMARY KEY,
    collection    INTEGER NOT NULL REFERENCES collections (number),
    name_hash     BLOB NOT NULL,
    reason_code   TEXT NOT NULL,
    source_bytes  INTEGER NOT NULL,
    job           TEXT,
    refused_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL,
    UNIQUE (collection, name_hash)
) STRICT;

CREATE TABLE snapshots (
    id             TEXT PRIMARY KEY,
    collection     INTEGER NOT NULL REFERENCES collections (number),
    merkle_root    BLOB NOT NULL,
    documents      INTEGER NOT NULL,
    duplicates     INTEGER NOT NULL,
    train_bytes    INTEGER NOT NULL,
    held_out_bytes INTEGER NOT NULL,
    created_at_ms  INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    content        BLOB NOT NULL
) STRICT;

CREATE TABLE snapshot_members (
    snapshot TEXT NOT NULL REFERENCES snapshots (id),
    position INTEGER NOT NULL,
    document TEXT NOT NULL REFERENCES documents (id),
    PRIMARY KEY (snapshot, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_members_document ON snapshot_members (document);

CREATE TABLE tokenizers (
    id              TEXT PRIMARY KEY,
    snapshot        TEXT REFERENCES snapshots (id),
    vocab_size      INTEGER NOT NULL,
    bytes_per_token REAL,
    created_at_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE shards (
    id            TEXT PRIMARY KEY,
    snapshot      TEXT NOT NULL REFERENCES snapshots (id),
    tokenizer     TEXT NOT NULL REFERENCES tokenizers (id),
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX shards_inputs ON shards (snapshot, tokenizer);

CREATE TABLE runs (
    id            TEXT PRIMARY KEY,
    snapshot      TEXT NOT NULL REFERENCES snapshots (id),
    tokenizer     TEXT NOT NULL REFERENCES tokenizers (id),
    state         TEXT NOT NULL CHECK (state IN ('running', 'interrupted', 'failed', 'done')),
    started_at_ms INTEGER NOT NULL,
    ended_at_ms   INTEGER,
    steps_done    INTEGER NOT NULL,
    steps_total   INTEGER NOT NULL,
    parameters    INTEGER NOT NULL,
    tokens_seen   INTEGER NOT NULL,
    elapsed_s     REAL NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;

-- What long work stated to outlive its process, the last of each kind.
CREATE TABLE facts (
    owner         TEXT NOT NULL,
    kind          TEXT NOT NULL,
    stated_at_ms  INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL,
    PRIMARY KEY (owner, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
    id            TEXT PRIMARY KEY,
    name_hash     BLOB NOT NULL,
    run           TEXT REFERENCES runs (id),
    tokenizer     TEXT REFERENCES tokenizers (id),
    parameters    INTEGER NOT NULL,
    bits_per_byte REAL,
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
CREATE INDEX models_name ON models (name_hash);

CREATE TABLE evaluations (
    id            TEXT PRIMARY KEY,
    model         TEXT NOT NULL REFERENCES models (id),
    snapshot      TEXT REFERENCES snapshots (id),
    kind          TEXT NOT NULL,
    metrics       TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX evaluations_model ON evaluations (model);

CREATE TABLE deployments (
    id            TEXT PRIMARY KEY,
    name_hash     BLOB NOT NULL,
    model         TEXT NOT NULL REFERENCES models (id),
    state         TEXT NOT NULL CHECK (state IN ('active', 'retired')),
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX deployments_active ON deployments (name_hash) WHERE state = 'active';

CREATE TABLE lineage (
    parent        TEXT NOT NULL,
    child         TEXT NOT NULL,
    relation      TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (parent, child, relation)
) STRICT, WITHOUT ROWID;
CREATE INDEX lineage_child ON lineage (child);

CREATE TABLE jobs (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL,
    state         TEXT NOT NULL
                  CHECK (state IN ('queued', 'running', 'interrupted', 'failed', 'cancelled', 'done')),
    actor         TEXT NOT NULL,
    run           TEXT,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms   INTEGER,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;
CREATE INDEX jobs_state ON jobs (state);

-- Every sealed object that the keyring holds a key for. `staged` belongs to a job that has not ended; whatever is
-- staged and has no running job, and whatever the keyring holds and this table does not, was half-done.
CREATE TABLE objects (
    id            TEXT PRIMARY KEY,
    state         TEXT NOT NULL CHECK (state IN ('staged', 'kept')),
    job           TEXT REFERENCES jobs (id),
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX objects_staged ON objects (job) WHERE state = 'staged';

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    name_hash     BLOB NOT NULL UNIQUE,
    role          TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('active', 'disabled')),
    created_at_ms INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    content       BLOB NOT NULL
) STRICT;

-- API tokens: only their HMAC is here.
CREATE TABLE tokens (
    id            TEXT PRIMARY KEY,
    mac           BLOB NOT NULL UNIQUE,
    user          TEXT REFERENCES users (id),
    role          TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER
) STRICT;

CREATE TABLE answers (
    id                TEXT PRIMARY KEY,
    token             TEXT NOT NULL,
    model             TEXT NOT NULL REFERENCES models (id),
    kind              TEXT NOT NULL CHECK (kind IN ('chat', 'completion')),
    state             TEXT NOT NULL CHECK (state IN ('pending', 'done', 'cancelled', 'failed')),
    finish_reason     TEXT,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created_at_ms     INTEGER NOT NULL,
    ended_at_ms       INTEGER,
    version           INTEGER NOT NULL,
    content           BLOB NOT NULL
) STRICT;

CREATE TABLE feedback (
    id             TEXT PRIMARY KEY,
    answer         TEXT NOT NULL REFERENCES answers (id),
    token          TEXT NOT NULL,
    rating         INTEGER,
    state          TEXT NOT NULL CHECK (state IN ('new', 'accepted', 'rejected')),
    reviewed_by    TEXT,
    reviewed_at_ms INTEGER,
    created_at_ms  INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    content        BLOB NOT NULL
) STRICT;
CREATE INDEX feedback_answer ON feedback (answer);
