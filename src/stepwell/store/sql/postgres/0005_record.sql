-- usable from: 4

-- What surfaces keep: apps, sessions, files. The value is of their own making. `token` is that of the last write, by
-- which a writer who lost his connection knows it again.
CREATE TABLE stepwell.record (
    env      text COLLATE "C" NOT NULL,
    kind     text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    shard    integer NOT NULL,
    revision bigint NOT NULL,
    at       bigint NOT NULL,
    value    bytea NOT NULL,
    token    text NOT NULL,
    PRIMARY KEY (env, kind, key, shard)
);
