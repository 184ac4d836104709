-- usable from: 2

-- Which runs and events (by id) refer to a text.
CREATE TABLE stepwell.blob_use (
    holder text COLLATE "C" NOT NULL,
    hash   text COLLATE "C" NOT NULL,
    shard  integer NOT NULL,
    PRIMARY KEY (holder, hash, shard)
);

CREATE INDEX blob_use_by_hash ON stepwell.blob_use (hash);

-- Texts that perhaps nothing refers to since that time; it is looked at before they go. Whoever names one takes its row away, and whoever removes texts locks
-- the rows first: so one of the two waits, and a text that is named again is stored again.
CREATE TABLE stepwell.loose_blob (
    hash  text COLLATE "C" NOT NULL PRIMARY KEY,
    since bigint NOT NULL
);

CREATE INDEX loose_blob_by_time ON stepwell.loose_blob (since, hash);

-- Runs of which only entries are left.
CREATE TABLE stepwell.removed_run (
    id    text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    PRIMARY KEY (id, shard)
);

-- Called in the transaction of a group that stores or names texts, before the group is written.
CREATE FUNCTION stepwell.note_uses_1(
    _holders text[], _hashes text[], _shards integer[], _stored text[], _now bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM stepwell.loose_blob WHERE hash = ANY (_hashes) OR hash = ANY (_stored) ORDER BY hash FOR UPDATE;
    DELETE FROM stepwell.loose_blob WHERE hash = ANY (_hashes);
    INSERT INTO stepwell.blob_use SELECT * FROM unnest(_holders, _hashes, _shards) ON CONFLICT DO NOTHING;
    PERFORM stepwell.mark_loose_1(ARRAY(SELECT unnest(_stored) EXCEPT SELECT unnest(_hashes)), coalesce(_now, stepwell.clock_ms()));
END
$$;

-- Others may refer to them: of two that let go at the same time, each would still see the other.
CREATE FUNCTION stepwell.mark_loose_1(_hashes text[], _now bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO stepwell.loose_blob SELECT DISTINCT hash, _now FROM unnest(_hashes) AS n (hash)
    ORDER BY hash
    ON CONFLICT (hash) DO UPDATE SET since = excluded.since
$$;

CREATE FUNCTION stepwell.let_go_1(_holders text[], _now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    _hashes text[];
BEGIN
    WITH gone AS (DELETE FROM stepwell.blob_use WHERE holder = ANY (_holders) RETURNING hash)
    SELECT array_agg(hash) INTO _hashes FROM gone;
    IF _hashes IS NOT NULL THEN
        PERFORM stepwell.mark_loose_1(_hashes, _now);
    END IF;
END
$$;

-- Returns each run that was looked at before the time was over, and whether it was removed.
CREATE FUNCTION stepwell.remove_runs_1(_runs text[], _now bigint, _budget_ms integer, _entries_at_once integer)
RETURNS TABLE (run_id text, removed boolean) LANGUAGE plpgsql AS $$
DECLARE
    _until timestamptz := clock_timestamp() + _budget_ms * interval '1 millisecond';
    _run text;
    _gone record;
BEGIN
    FOREACH _run IN ARRAY _runs LOOP
        DELETE FROM stepwell.run WHERE run.id = _run AND run.ending IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM stepwell.job WHERE job.run = _run)
            AND NOT EXISTS (SELECT 1 FROM stepwell.run AS child WHERE child.parent = _run)
        RETURNING run.seq, run.shard, run.parent INTO _gone;
        run_id := _run;
        removed := FOUND;
        IF removed THEN
            DELETE FROM stepwell.wait WHERE wait.run = _run;
            IF _gone.seq <= _entries_at_once THEN
                DELETE FROM stepwell.entry WHERE entry.run = _run;
            ELSE
                INSERT INTO stepwell.removed_run VALUES (_run, _gone.shard) ON CONFLICT DO NOTHING;
            END IF;
            PERFORM stepwell.let_go_1(ARRAY[_run], _now);
            -- What a parent was told of its child when it was gone already.
            IF _gone.parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stepwell.run WHERE run.id = _gone.parent) THEN
                PERFORM stepwell.let_go_1(ARRAY[_gone.parent], _now);
            END IF;
        END IF;
        RETURN NEXT;
        EXIT WHEN clock_timestamp() >= _until;
    END LOOP;
END
$$;

CREATE FUNCTION stepwell.remove_events_1(_keys text[], _now bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _gone text[];
BEGIN
    WITH gone AS (
        DELETE FROM stepwell.event WHERE event.key = ANY (_keys)
            AND NOT EXISTS (SELECT 1 FROM stepwell.run WHERE run.event = event.key)
        RETURNING event.key
    )
    SELECT coalesce(array_agg(gone.key), '{}') INTO _gone FROM gone;
    PERFORM stepwell.let_go_1(_gone, _now);
    RETURN cardinality(_gone);
END
$$;

-- One piece of what nobody can see: entries of removed runs, expired keys, texts that have been loose for long enough.
CREATE FUNCTION stepwell.tidy_1(
    _now bigint, _loose_before bigint, _entries_at_once integer, _keys_at_once integer, _blobs_at_once integer
) RETURNS TABLE (entries bigint, keys bigint, blobs bigint, more boolean) LANGUAGE plpgsql AS $$
DECLARE
    _left record;
    _loose text[];
    _count bigint;
BEGIN
    entries := 0;
    blobs := 0;
    more := false;
    SELECT id, shard INTO _left FROM stepwell.removed_run LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        DELETE FROM stepwell.entry WHERE entry.run = _left.id AND entry.seq <= _entries_at_once - 1
            + (SELECT min(e.seq) FROM stepwell.entry AS e WHERE e.run = _left.id);
        GET DIAGNOSTICS entries = ROW_COUNT;
        IF entries < _entries_at_once THEN
            DELETE FROM stepwell.removed_run WHERE id = _left.id;
        END IF;
        more := true;
    END IF;
    DELETE FROM stepwell.dedup WHERE (env, key, shard) IN (
        SELECT d.env, d.key, d.shard FROM stepwell.dedup AS d WHERE d.until <= _now
        ORDER BY d.until LIMIT _keys_at_once FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS keys = ROW_COUNT;
    SELECT array_agg(hash) INTO _loose FROM (
        SELECT hash FROM stepwell.loose_blob WHERE since <= _loose_before
        ORDER BY since, hash LIMIT _blobs_at_once FOR UPDATE SKIP LOCKED
    ) AS locked;
    IF _loose IS NOT NULL THEN
        DELETE FROM stepwell.blob WHERE blob.hash = ANY (_loose)
            AND NOT EXISTS (SELECT 1 FROM stepwell.blob_use WHERE blob_use.hash = blob.hash);
        GET DIAGNOSTICS blobs = ROW_COUNT;
        DELETE FROM stepwell.loose_blob WHERE hash = ANY (_loose);
    END IF;
    more := more OR keys = _keys_at_once OR coalesce(cardinality(_loose), 0) = _blobs_at_once;
    RETURN NEXT;
END
$$;
