-- usable from: 1
--
-- Columns are what SQL looks at; `body` is the whole value as MessagePack. Every row carries its shard, as the last part
-- of its key: ids are unique without it, and a database that is spread over several machines needs it there. Ids are
-- text drawn or derived by the program: no sequences. Nothing here relies on the state of a session.

CREATE FUNCTION stepwell.clock_ms() RETURNS bigint LANGUAGE sql VOLATILE
AS 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE TABLE stepwell.node (
    name        text COLLATE "C" NOT NULL PRIMARY KEY,
    epoch       bigint NOT NULL,
    lease_until bigint NOT NULL
) WITH (fillfactor = 50);

-- Who writes: one row for each writing connection of each server, with the number of the last thing that it did. It is
-- changed in the same transaction, so whoever lost the connection can ask whether that thing was done.
CREATE TABLE stepwell.writer (
    id   text COLLATE "C" NOT NULL PRIMARY KEY,
    last bigint NOT NULL,
    at   bigint NOT NULL
) WITH (fillfactor = 20);

CREATE TABLE stepwell.event (
    key         text COLLATE "C" NOT NULL,
    env         text COLLATE "C" NOT NULL,
    shard       integer NOT NULL,
    name        text COLLATE "C" NOT NULL,
    internal_id text COLLATE "C" NOT NULL,
    received_at bigint NOT NULL,
    body        bytea NOT NULL,
    PRIMARY KEY (key, shard)
);

CREATE INDEX event_by_name ON stepwell.event (env, name, received_at, key);
CREATE INDEX event_by_internal_id ON stepwell.event (env, internal_id, key);

-- Keys that may be taken once until they expire.
CREATE TABLE stepwell.dedup (
    env      text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    value    text COLLATE "C" NOT NULL,
    until    bigint NOT NULL,
    shard    integer NOT NULL,
    taken_at bigint NOT NULL,
    PRIMARY KEY (env, key, shard)
);

CREATE INDEX dedup_until ON stepwell.dedup (until);

CREATE TABLE stepwell.entry (
    run     text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    shard   integer NOT NULL,
    version integer NOT NULL,
    body    bytea NOT NULL,
    PRIMARY KEY (run, seq, shard)
);

-- `ending` is the final status and stays NULL until there is one: so all other updates leave every index alone and
-- find room in the row's own page.
CREATE TABLE stepwell.run (
    id         text COLLATE "C" NOT NULL,
    env        text COLLATE "C" NOT NULL,
    shard      integer NOT NULL,
    seq        bigint NOT NULL,
    status     text COLLATE "C" NOT NULL,
    ending     text COLLATE "C",
    function   text COLLATE "C" NOT NULL,
    service    text COLLATE "C" NOT NULL,
    event      text COLLATE "C",
    parent     text COLLATE "C",
    created_at bigint NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (id, shard)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX run_by_function ON stepwell.run (env, function, id);
CREATE INDEX run_by_creation ON stepwell.run (env, created_at, id);
CREATE INDEX run_by_event ON stepwell.run (event, id) WHERE event IS NOT NULL;
CREATE INDEX run_by_parent ON stepwell.run (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX run_ended ON stepwell.run (env, ending, id) WHERE ending IS NOT NULL;
CREATE INDEX run_live ON stepwell.run (id) WHERE ending IS NULL;

-- The owner and its epoch, the fence and the due time are here and not in the body: they change. A job without a route
-- has an empty one. `claim` names the search that claimed the job.
CREATE TABLE stepwell.job (
    id    text COLLATE "C" NOT NULL,
    env   text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    run   text COLLATE "C",
    due   bigint NOT NULL,
    owner text COLLATE "C",
    epoch bigint,
    fence bigint NOT NULL,
    route text COLLATE "C" NOT NULL,
    claim text COLLATE "C",
    body  bytea NOT NULL,
    PRIMARY KEY (id, shard)
) WITH (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1
);

CREATE INDEX job_by_run ON stepwell.job (run, id) WHERE run IS NOT NULL;
CREATE INDEX job_due ON stepwell.job (route, due, id) WHERE owner IS NULL;
CREATE INDEX job_owned ON stepwell.job (owner, epoch) WHERE owner IS NOT NULL;

CREATE TABLE stepwell.wait (
    run   text COLLATE "C" NOT NULL,
    step  text COLLATE "C" NOT NULL,
    env   text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    event text COLLATE "C" NOT NULL,
    path  text COLLATE "C",
    value text COLLATE "C",
    body  bytea NOT NULL,
    PRIMARY KEY (run, step, shard)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000);

CREATE INDEX wait_by_key ON stepwell.wait (env, event, path, value, run, step);

CREATE TABLE stepwell.blob (
    hash       text COLLATE "C" NOT NULL PRIMARY KEY,
    size_bytes bigint NOT NULL,
    stored_at  bigint NOT NULL,
    body       bytea NOT NULL
);

CREATE TABLE stepwell.service (
    env   text COLLATE "C" NOT NULL,
    name  text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    body  bytea NOT NULL,
    PRIMARY KEY (env, name, shard)
);

-- lz4 packs texts above 2 kB ten times faster than the default, where the server was built with it.
DO $$
BEGIN
    ALTER TABLE stepwell.entry ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE stepwell.event ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE stepwell.run ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE stepwell.job ALTER COLUMN body SET COMPRESSION lz4;
    ALTER TABLE stepwell.blob ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- The functions are the statements of one round trip. Their names end with a number: a server of the previous release
-- goes on calling what it knows while a newer one is there.

-- Writes a group of transitions if all that it relies on still holds, and nothing otherwise.
-- True: written. False: it was written by an earlier call of the same number. SQLSTATE SW001: something has changed.
-- Rows that two servers may want at once come sorted, so that they do not wait for each other in a circle.
--
-- Why `id = ANY (ARRAY[n.id])`: of a table that was nearly empty when autovacuum looked, the planner believes that to read
-- all of it along its key is cheaper than to look for ten ids, and keeps that plan when there are a million rows. This
-- comparison it can only use to look for an id. `epoch` is there when `owner` is, and in the condition of no index.
CREATE FUNCTION stepwell.write_group_1(
    _writer text, _number bigint,
    _moved text[], _moved_shard integer[], _moved_from bigint[], _moved_to bigint[], _moved_status text[],
    _moved_ending text[], _moved_body bytea[],
    _ends text[], _ends_fence bigint[], _ends_after integer[],
    _holds text[], _holds_fence bigint[], _holds_after integer[],
    _drop_jobs text[], _drop_all_of text[], _drop_waits text[], _drop_waits_step text[],
    _blob text[], _blob_body bytea[],
    _event text[], _event_env text[], _event_shard integer[], _event_name text[], _event_internal_id text[],
    _event_received_at bigint[], _event_body bytea[],
    _run text[], _run_env text[], _run_shard integer[], _run_seq bigint[], _run_status text[], _run_ending text[],
    _run_function text[], _run_service text[], _run_event text[], _run_parent text[], _run_created_at bigint[],
    _run_body bytea[],
    _entry text[], _entry_seq bigint[], _entry_shard integer[], _entry_version integer[], _entry_body bytea[],
    _job text[], _job_env text[], _job_shard integer[], _job_run text[], _job_due bigint[], _job_owner text[],
    _job_epoch bigint[], _job_fence bigint[], _job_route text[], _job_body bytea[],
    _key_env text[], _key text[], _key_value text[], _key_until bigint[], _key_shard integer[], _key_taken_at bigint[],
    _keys_at bigint,
    _wait text[], _wait_step text[], _wait_env text[], _wait_shard integer[], _wait_event text[], _wait_path text[],
    _wait_value text[], _wait_body bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    _count integer;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    UPDATE stepwell.writer SET last = _number, at = stepwell.clock_ms() WHERE id = _writer AND last = _number - 1;
    IF NOT FOUND THEN
        PERFORM 1 FROM stepwell.writer WHERE id = _writer AND last = _number;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'writer % is not known, or not at %', _writer, _number USING ERRCODE = 'SW002';
        END IF;
        RETURN false;
    END IF;

    IF _moved IS NOT NULL THEN
        UPDATE stepwell.run SET seq = n.seq, status = n.status, ending = n.ending, body = n.body
        FROM unnest(_moved, _moved_shard, _moved_from, _moved_to, _moved_status, _moved_ending, _moved_body)
            AS n (id, shard, before, seq, status, ending, body)
        WHERE run.id = ANY (ARRAY[n.id]) AND run.shard = n.shard AND run.seq = n.before;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_moved) THEN
            RAISE EXCEPTION 'a run has moved' USING ERRCODE = 'SW001';
        END IF;
    END IF;
    -- `after` counts the runs of `_drop_all_of` whose jobs were gone before the claim was used.
    IF _ends IS NOT NULL THEN
        DELETE FROM stepwell.job USING unnest(_ends, _ends_fence, _ends_after) AS c (id, fence, after)
        WHERE job.id = ANY (ARRAY[c.id]) AND job.fence = c.fence AND job.epoch IS NOT NULL
            AND (c.after = 0 OR coalesce(array_position(_drop_all_of, job.run) > c.after, true));
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_ends) THEN
            RAISE EXCEPTION 'a claim is lost' USING ERRCODE = 'SW001';
        END IF;
    END IF;
    IF _holds IS NOT NULL THEN
        PERFORM 1 FROM unnest(_holds, _holds_fence, _holds_after) AS c (id, fence, after), stepwell.job
        WHERE job.id = ANY (ARRAY[c.id]) AND job.fence = c.fence AND job.epoch IS NOT NULL
            AND (c.after = 0 OR coalesce(array_position(_drop_all_of, job.run) > c.after, true))
        FOR SHARE OF job;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_holds) THEN
            RAISE EXCEPTION 'a claim is lost' USING ERRCODE = 'SW001';
        END IF;
    END IF;
    IF _key IS NOT NULL THEN
        DELETE FROM stepwell.dedup USING (
            SELECT env, key, shard FROM stepwell.dedup WHERE until <= _keys_at
            ORDER BY until LIMIT 2 * cardinality(_key) FOR UPDATE SKIP LOCKED
        ) AS old WHERE dedup.env = ANY (ARRAY[old.env]) AND dedup.key = old.key AND dedup.shard = old.shard;
        INSERT INTO stepwell.dedup (env, key, value, until, shard, taken_at)
        SELECT * FROM unnest(_key_env, _key, _key_value, _key_until, _key_shard, _key_taken_at)
        ON CONFLICT (env, key, shard) DO UPDATE
        SET value = excluded.value, until = excluded.until, taken_at = excluded.taken_at
        WHERE dedup.until <= excluded.taken_at;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_key) THEN
            RAISE EXCEPTION 'a key is taken' USING ERRCODE = 'SW001';
        END IF;
    END IF;

    IF _drop_jobs IS NOT NULL THEN
        DELETE FROM stepwell.job WHERE id = ANY (_drop_jobs);
    END IF;
    IF _drop_all_of IS NOT NULL THEN
        DELETE FROM stepwell.job WHERE run = ANY (_drop_all_of);
        DELETE FROM stepwell.wait WHERE run = ANY (_drop_all_of);
    END IF;
    IF _drop_waits IS NOT NULL THEN
        DELETE FROM stepwell.wait USING unnest(_drop_waits, _drop_waits_step) AS d (run, step)
        WHERE wait.run = ANY (ARRAY[d.run]) AND wait.step = d.step;
    END IF;

    IF _blob IS NOT NULL THEN
        INSERT INTO stepwell.blob (hash, size_bytes, stored_at, body)
        SELECT hash, length(body), stepwell.clock_ms(), body FROM unnest(_blob, _blob_body) AS n (hash, body)
        ON CONFLICT DO NOTHING;
    END IF;
    IF _event IS NOT NULL THEN
        INSERT INTO stepwell.event (key, env, shard, name, internal_id, received_at, body)
        SELECT * FROM unnest(
            _event, _event_env, _event_shard, _event_name, _event_internal_id, _event_received_at, _event_body);
    END IF;
    IF _run IS NOT NULL THEN
        INSERT INTO stepwell.run (
            id, env, shard, seq, status, ending, function, service, event, parent, created_at, body)
        SELECT * FROM unnest(
            _run, _run_env, _run_shard, _run_seq, _run_status, _run_ending, _run_function, _run_service, _run_event,
            _run_parent, _run_created_at, _run_body);
    END IF;
    IF _entry IS NOT NULL THEN
        INSERT INTO stepwell.entry (run, seq, shard, version, body)
        SELECT * FROM unnest(_entry, _entry_seq, _entry_shard, _entry_version, _entry_body);
    END IF;
    IF _job IS NOT NULL THEN
        INSERT INTO stepwell.job (id, env, shard, run, due, owner, epoch, fence, route, body)
        SELECT * FROM unnest(
            _job, _job_env, _job_shard, _job_run, _job_due, _job_owner, _job_epoch, _job_fence, _job_route, _job_body);
    END IF;
    IF _wait IS NOT NULL THEN
        INSERT INTO stepwell.wait (run, step, env, shard, event, path, value, body)
        SELECT * FROM unnest(
            _wait, _wait_step, _wait_env, _wait_shard, _wait_event, _wait_path, _wait_value, _wait_body);
    END IF;
    RETURN true;
END
$$;

-- The routes of unowned jobs, going from one to the next along the index whatever their number.
CREATE FUNCTION stepwell.waiting_routes_1() RETURNS text[] LANGUAGE plpgsql STABLE AS $$
DECLARE
    _found text[] := '{}';
    _route text;
BEGIN
    SELECT route INTO _route FROM stepwell.job WHERE owner IS NULL ORDER BY route LIMIT 1;
    WHILE _route IS NOT NULL LOOP
        _found := _found || _route;
        SELECT route INTO _route FROM stepwell.job WHERE owner IS NULL AND route > _found[cardinality(_found)]
        ORDER BY route LIMIT 1;
    END LOOP;
    RETURN _found;
END
$$;

CREATE FUNCTION stepwell.next_due_1(_routes text[]) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT min(first.due) FROM unnest(coalesce(_routes, stepwell.waiting_routes_1())) AS r (route), LATERAL (
        SELECT due FROM stepwell.job WHERE owner IS NULL AND route = r.route ORDER BY due LIMIT 1
    ) AS first
$$;

-- Claims unowned jobs that are due, oldest first. Called again with the same number it answers the same jobs. Without
-- `_now` the clock is this server's; without `_routes` it is every route.
CREATE FUNCTION stepwell.claim_due_1(
    _writer text, _number bigint, _node text, _epoch bigint, _now bigint, _limit integer, _routes text[]
) RETURNS TABLE (fence bigint, body bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _claim text := _writer || ':' || _number;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE stepwell.writer SET last = _number, at = stepwell.clock_ms() WHERE id = _writer AND last = _number - 1;
    IF NOT FOUND THEN
        PERFORM 1 FROM stepwell.writer WHERE id = _writer AND last = _number;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'writer % is not known, or not at %', _writer, _number USING ERRCODE = 'SW002';
        END IF;
        RETURN QUERY SELECT job.fence, job.body FROM stepwell.job
        WHERE owner = _node AND epoch = _epoch AND claim = _claim ORDER BY due, id;
        RETURN;
    END IF;
    PERFORM 1 FROM stepwell.node WHERE name = _node AND epoch > _epoch;
    IF FOUND THEN
        RETURN;
    END IF;
    _now := coalesce(_now, stepwell.clock_ms());
    _routes := coalesce(_routes, stepwell.waiting_routes_1());
    RETURN QUERY
    WITH found AS (
        SELECT due_job.id, due_job.shard FROM unnest(_routes) AS r (route), LATERAL (
            SELECT id, shard, due FROM stepwell.job WHERE owner IS NULL AND route = r.route AND due <= _now
            ORDER BY due, id LIMIT _limit FOR UPDATE SKIP LOCKED
        ) AS due_job ORDER BY due_job.due, due_job.id LIMIT _limit
    ), claimed AS (
        UPDATE stepwell.job SET owner = _node, epoch = _epoch, fence = job.fence + 1, claim = _claim
        FROM found WHERE job.id = ANY (ARRAY[found.id]) AND job.shard = found.shard
        RETURNING job.due, job.id, job.fence, job.body
    )
    SELECT claimed.fence, claimed.body FROM claimed ORDER BY claimed.due, claimed.id;
END
$$;

-- Frees the jobs of everybody without a lease; returns the route of each. Looks only between the nodes that have one,
-- so jobs of the living cost nothing.
CREATE FUNCTION stepwell.release_lost_1(_now bigint, _forget_ms bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    _now := coalesce(_now, stepwell.clock_ms());
    RETURN QUERY
    WITH alive AS (
        SELECT name, epoch FROM stepwell.node WHERE lease_until > _now
    ), fence AS (
        SELECT name, epoch FROM alive UNION ALL SELECT chr(1114111), 0
    ), gap AS (
        SELECT coalesce(lag(name) OVER w, '') AS low, coalesce(lag(epoch) OVER w, -1) AS low_epoch,
            name AS high, epoch AS high_epoch
        FROM fence WINDOW w AS (ORDER BY name)
    ), lost AS (
        SELECT job.id, job.shard FROM gap, LATERAL (
            SELECT id, shard FROM stepwell.job
            WHERE owner IS NOT NULL AND (owner, epoch) > (gap.low, gap.low_epoch)
                AND (owner, epoch) < (gap.high, gap.high_epoch)
            FOR UPDATE SKIP LOCKED
        ) AS job
    )
    UPDATE stepwell.job SET owner = NULL, epoch = NULL, claim = NULL FROM lost
    WHERE job.id = ANY (ARRAY[lost.id]) AND job.shard = lost.shard RETURNING job.route;
    DELETE FROM stepwell.node WHERE lease_until <= _now - _forget_ms;
END
$$;
