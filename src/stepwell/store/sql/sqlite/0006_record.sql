-- usable from: 5

-- What surfaces keep: apps, sessions, files. The value is of their own making.
CREATE TABLE record (
    env      TEXT NOT NULL,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    shard    INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    value    BLOB NOT NULL,
    PRIMARY KEY (env, kind, key)
) WITHOUT ROWID;
