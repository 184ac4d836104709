-- usable from: 1
--
-- Columns are what SQL looks at; `body` is the whole value as MessagePack. Every row carries its shard, and its
-- environment unless it belongs to none. Ids are text drawn or derived by the program: no sequences.

CREATE TABLE node (
    name        TEXT NOT NULL PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE event (
    key         TEXT NOT NULL PRIMARY KEY,
    env         TEXT NOT NULL,
    shard       INTEGER NOT NULL,
    name        TEXT NOT NULL,
    internal_id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    body        BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX event_by_name ON event (env, name, received_at, key);
CREATE INDEX event_by_internal_id ON event (env, internal_id, key);

-- Keys that may be taken once until they expire.
CREATE TABLE dedup (
    env   TEXT NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    until INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    PRIMARY KEY (env, key)
) WITHOUT ROWID;

CREATE INDEX dedup_until ON dedup (until);

CREATE TABLE entry (
    run     TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    shard   INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;

-- `ending` is the final status and stays NULL until there is one: indexes on it are left alone by all other updates.
CREATE TABLE run (
    id         TEXT NOT NULL PRIMARY KEY,
    env        TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    status     TEXT NOT NULL,
    ending     TEXT,
    function   TEXT NOT NULL,
    service    TEXT NOT NULL,
    event      TEXT,
    parent     TEXT,
    created_at INTEGER NOT NULL,
    body       BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX run_by_function ON run (env, function, id);
CREATE INDEX run_by_creation ON run (env, created_at, id);
CREATE INDEX run_by_event ON run (event, id) WHERE event IS NOT NULL;
CREATE INDEX run_by_parent ON run (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX run_ended ON run (env, ending, id) WHERE ending IS NOT NULL;
CREATE INDEX run_live ON run (id) WHERE ending IS NULL;

-- The owner and its epoch, the fence and the due time are here and not in the body: they change.
CREATE TABLE job (
    id    TEXT NOT NULL PRIMARY KEY,
    env   TEXT NOT NULL,
    shard INTEGER NOT NULL,
    run   TEXT,
    due   INTEGER NOT NULL,
    owner TEXT,
    epoch INTEGER,
    fence INTEGER NOT NULL,
    body  BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX job_by_run ON job (run, id) WHERE run IS NOT NULL;
CREATE INDEX job_due ON job (due, id) WHERE owner IS NULL;

CREATE TABLE wait (
    run   TEXT NOT NULL,
    step  TEXT NOT NULL,
    env   TEXT NOT NULL,
    shard INTEGER NOT NULL,
    event TEXT NOT NULL,
    path  TEXT,
    value TEXT,
    body  BLOB NOT NULL,
    PRIMARY KEY (run, step)
) WITHOUT ROWID;

CREATE INDEX wait_by_key ON wait (env, event, path, value, run, step);

-- A text above the limit of this table is a file named by its hash; its row has no body.
CREATE TABLE blob (
    hash       TEXT NOT NULL PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    stored_at  INTEGER NOT NULL,
    body       BLOB
);

CREATE TABLE service (
    env   TEXT NOT NULL,
    name  TEXT NOT NULL,
    shard INTEGER NOT NULL,
    body  BLOB NOT NULL,
    PRIMARY KEY (env, name)
) WITHOUT ROWID;
