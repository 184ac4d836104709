-- usable from: 3

-- Keys that are kept for functions. The body has the value encrypted, with a key that is not in here.
CREATE TABLE credential (
    env   TEXT NOT NULL,
    name  TEXT NOT NULL,
    shard INTEGER NOT NULL,
    body  BLOB NOT NULL,
    PRIMARY KEY (env, name)
) WITHOUT ROWID;
