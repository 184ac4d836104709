-- usable from: 5

-- How many jobs of a key may be worked on at a time, and how many hold a slot. One that nobody holds has no row.
CREATE TABLE gate (
    key   TEXT NOT NULL PRIMARY KEY,
    shard INTEGER NOT NULL,
    most  INTEGER NOT NULL,
    held  INTEGER NOT NULL
) WITHOUT ROWID;

-- A job that has asked for slots: it holds those of the first `passed` of its keys, and is in the line of `line`, the
-- next one, until that is NULL. Meanwhile its row in `job` is due at the end of time; then it is due at `due`.
CREATE TABLE place (
    job    TEXT NOT NULL PRIMARY KEY,
    run    TEXT,
    shard  INTEGER NOT NULL,
    keys   TEXT NOT NULL,
    limits TEXT NOT NULL,
    passed INTEGER NOT NULL,
    rank   INTEGER NOT NULL,
    due    INTEGER NOT NULL,
    route  TEXT,
    line   TEXT
) WITHOUT ROWID;

CREATE INDEX place_in_line ON place (line, rank, job) WHERE line IS NOT NULL;
CREATE INDEX place_by_run ON place (run) WHERE run IS NOT NULL;
