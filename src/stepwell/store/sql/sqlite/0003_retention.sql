-- usable from: 3

-- Which runs and events (by id) refer to a text. What refers to none of its own has no rows here.
CREATE TABLE blob_use (
    holder TEXT NOT NULL,
    hash   TEXT NOT NULL,
    shard  INTEGER NOT NULL,
    PRIMARY KEY (holder, hash)
) WITHOUT ROWID;

CREATE INDEX blob_use_by_hash ON blob_use (hash);

-- Texts that nothing referred to at that time. Whether that is still so is looked at again before they go.
CREATE TABLE loose_blob (
    hash  TEXT NOT NULL PRIMARY KEY,
    since INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX loose_blob_by_time ON loose_blob (since, hash);

-- Runs of which only entries are left.
CREATE TABLE removed_run (
    id    TEXT NOT NULL PRIMARY KEY,
    shard INTEGER NOT NULL
) WITHOUT ROWID;

-- A database that has texts already: who refers to them is found out bit by bit, and this says how far that is.
INSERT INTO meta SELECT 'uses_to_find', 'run ' WHERE EXISTS (SELECT 1 FROM blob);
