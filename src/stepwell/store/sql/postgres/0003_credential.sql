-- usable from: 2

-- Keys that are kept for functions. The body has the value encrypted, with a key that is not in here.
CREATE TABLE stepwell.credential (
    env   text COLLATE "C" NOT NULL,
    name  text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    body  bytea NOT NULL,
    PRIMARY KEY (env, name, shard)
);
