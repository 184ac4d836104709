-- usable from: 4

-- The rules are those of `store/slots.py`, which says what the words mean. Whoever changes slots has the lock of all
-- slots first, before he locks any row; so what is read here stays as it is until the end of the transaction.

CREATE TABLE stepwell.gate (
    key   text COLLATE "C" NOT NULL PRIMARY KEY,
    shard integer NOT NULL,
    most  bigint NOT NULL,
    held  bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- While `line` says for which key a job waits, its row in `job` is due at the end of time; then it is due at `due`.
CREATE TABLE stepwell.place (
    job    text COLLATE "C" NOT NULL PRIMARY KEY,
    run    text COLLATE "C",
    shard  integer NOT NULL,
    keys   text[] COLLATE "C" NOT NULL,
    limits bigint[] NOT NULL,
    passed integer NOT NULL,
    rank   bigint NOT NULL,
    due    bigint NOT NULL,
    route  text COLLATE "C" NOT NULL,
    line   text COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE INDEX place_in_line ON stepwell.place (line, rank, job) WHERE line IS NOT NULL;
CREATE INDEX place_by_run ON stepwell.place (run) WHERE run IS NOT NULL;

-- How many of a job's gates it passes, from `_passed` on, and takes a slot of. Nobody passes one that is open: its line
-- comes first. A gate that nobody holds has no row, and gets the limit that the job named.
CREATE FUNCTION stepwell.pass_gates_1(
    _keys text[], _limits bigint[], _shard integer, _passed integer, _open text[]
) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    WHILE _passed < cardinality(_keys) AND _keys[_passed + 1] <> ALL (_open) LOOP
        INSERT INTO stepwell.gate VALUES (_keys[_passed + 1], _shard, _limits[_passed + 1], 0) ON CONFLICT DO NOTHING;
        UPDATE stepwell.gate SET held = held + 1 WHERE key = _keys[_passed + 1] AND held < most;
        EXIT WHEN NOT FOUND;
        _passed := _passed + 1;
    END LOOP;
    RETURN _passed;
END
$$;

-- Passes on the slots of jobs that are gone, and lets others in. `_keys` and `_limits` are JSON arrays, one for each job
-- that enters. Returns who of them is parked, and the routes of those who waited and got through.
CREATE FUNCTION stepwell.settle_slots_1(
    _gone text[], _gone_runs text[],
    _enter text[], _run text[], _shard integer[], _rank bigint[], _due bigint[], _route text[], _fence bigint[],
    _body bytea[], _body_through bytea[], _keys text[], _limits text[], OUT parked text[], OUT admitted text[]
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    _open text[] := '{}';
    _touched text[] := '{}';
    _through text[] := '{}';
    _place record;
    _new record;
    _key text;
    _before bigint;
    _room bigint;
    _passed integer;
    _found boolean;
BEGIN
    FOR _place IN
        WITH out_of_here AS (
            DELETE FROM stepwell.place WHERE job = ANY (_gone) RETURNING keys, passed
        ), of_runs AS (
            DELETE FROM stepwell.place WHERE run = ANY (_gone_runs) AND NOT coalesce(job = ANY (_gone), false)
            RETURNING keys, passed
        )
        SELECT * FROM out_of_here UNION ALL SELECT * FROM of_runs
    LOOP
        FOREACH _key IN ARRAY _place.keys[:_place.passed] LOOP
            UPDATE stepwell.gate SET held = held - 1 WHERE key = _key;
            IF _key <> ALL (_open) THEN
                _open := _open || _key;
            END IF;
        END LOOP;
    END LOOP;
    _touched := _open;

    FOR _new IN
        SELECT DISTINCT ON (k.key) k.key, l.most::bigint AS most, n.shard
        FROM unnest(_keys, _limits, _shard) WITH ORDINALITY AS n (keys, limits, shard, number),
            LATERAL jsonb_array_elements_text(n.keys::jsonb) WITH ORDINALITY AS k (key, at),
            LATERAL jsonb_array_elements_text(n.limits::jsonb) WITH ORDINALITY AS l (most, at)
        WHERE k.at = l.at ORDER BY k.key, n.number DESC
    LOOP
        SELECT most INTO _before FROM stepwell.gate WHERE key = _new.key;
        INSERT INTO stepwell.gate VALUES (_new.key, _new.shard, _new.most, 0)
        ON CONFLICT (key) DO UPDATE SET most = excluded.most;
        IF _before < _new.most AND _new.key <> ALL (_open) THEN
            _open := _open || _new.key;
        END IF;
        _touched := _touched || _new.key;
    END LOOP;

    FOR _new IN
        SELECT n.*, ARRAY(SELECT jsonb_array_elements_text(n.key_list::jsonb)) AS keys,
            ARRAY(SELECT jsonb_array_elements_text(n.limit_list::jsonb)::bigint) AS limits
        FROM unnest(_enter, _run, _shard, _rank, _due, _route, _keys, _limits)
            AS n (job, run, shard, rank, due, route, key_list, limit_list)
    LOOP
        -- Asked once more, since nobody knew whether the first time was heard.
        CONTINUE WHEN EXISTS (SELECT FROM stepwell.place WHERE job = _new.job);
        _passed := stepwell.pass_gates_1(_new.keys, _new.limits, _new.shard, 0, _open);
        INSERT INTO stepwell.place VALUES (
            _new.job, _new.run, _new.shard, _new.keys, _new.limits, _passed, _new.rank, _new.due, _new.route,
            _new.keys[_passed + 1]);
    END LOOP;

    WHILE _open <> '{}' LOOP
        _key := _open[1];
        _open := _open[2:];
        LOOP
            SELECT most - held INTO _room FROM stepwell.gate WHERE key = _key;
            EXIT WHEN _room IS NULL OR _room <= 0;
            _found := false;
            FOR _place IN
                SELECT job, shard, keys, limits, passed FROM stepwell.place WHERE line = _key ORDER BY rank, job LIMIT _room
            LOOP
                _found := true;
                UPDATE stepwell.gate SET held = held + 1 WHERE key = _key;
                _passed := stepwell.pass_gates_1(
                    _place.keys, _place.limits, _place.shard, _place.passed + 1, _open);
                UPDATE stepwell.place SET passed = _passed, line = _place.keys[_passed + 1] WHERE job = _place.job;
                _touched := _touched || _place.keys;
                IF _passed = cardinality(_place.keys) THEN
                    _through := _through || _place.job;
                END IF;
            END LOOP;
            EXIT WHEN NOT _found;
        END LOOP;
    END LOOP;
    DELETE FROM stepwell.gate WHERE key = ANY (_touched) AND held = 0;

    -- Nobody was told of a claim that a job was born with; one that was made by a search stays on record.
    WITH waiting AS (
        SELECT n.* FROM unnest(_enter, _fence, _body) AS n (id, fence, body), stepwell.place
        WHERE place.job = ANY (ARRAY[n.id]) AND place.line IS NOT NULL
    ), moved AS (
        UPDATE stepwell.job SET owner = NULL, epoch = NULL, claim = NULL, due = 4611686018427387904,
            fence = waiting.fence, body = coalesce(waiting.body, job.body)
        FROM waiting WHERE job.id = ANY (ARRAY[waiting.id]) RETURNING job.id
    )
    SELECT coalesce(array_agg(id), '{}') INTO parked FROM moved;
    UPDATE stepwell.job SET body = n.body FROM unnest(_enter, _body_through) AS n (id, body), stepwell.place
    WHERE n.body IS NOT NULL AND place.job = ANY (ARRAY[n.id]) AND place.line IS NULL AND job.id = ANY (ARRAY[n.id]);
    WITH moved AS (
        UPDATE stepwell.job SET due = place.due FROM stepwell.place
        WHERE place.job = ANY (_through) AND job.id = ANY (ARRAY[place.job]) AND NOT coalesce(place.job = ANY (_enter), false)
        RETURNING job.route
    )
    SELECT coalesce(array_agg(DISTINCT route), '{}') INTO admitted FROM moved;
END
$$;

-- `write_group_1`, and slots, and keys that are taken from who has them with the value that is named. Who is parked of a group that was written by an earlier call is said once more.
CREATE FUNCTION stepwell.write_group_2(
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
    _wait_value text[], _wait_body bytea[],
    _enter text[], _enter_run text[], _enter_shard integer[], _enter_rank bigint[], _enter_due bigint[],
    _enter_route text[], _enter_fence bigint[], _enter_body bytea[],
    _enter_body_through bytea[], _enter_keys text[], _enter_limits text[],
    _swap_env text[], _swap text[], _swap_value text[],
    OUT parked text[], OUT admitted text[]
) LANGUAGE plpgsql AS $$
DECLARE
    _gone text[] := _ends || _drop_jobs;
    _limited boolean := _enter IS NOT NULL;
    _count integer;
BEGIN
    IF NOT _limited AND _gone IS NOT NULL THEN
        _limited := EXISTS (SELECT FROM unnest(_gone) AS g (id), stepwell.place WHERE job = ANY (ARRAY[g.id]));
    END IF;
    IF NOT _limited AND _drop_all_of IS NOT NULL THEN
        _limited := EXISTS (SELECT FROM unnest(_drop_all_of) AS g (id), stepwell.place WHERE run = ANY (ARRAY[g.id]));
    END IF;
    IF _limited THEN
        PERFORM pg_advisory_xact_lock(1937010039, 1);
    END IF;
    IF _swap IS NOT NULL AND NOT EXISTS (SELECT FROM stepwell.writer WHERE id = _writer AND last = _number) THEN
        DELETE FROM stepwell.dedup USING unnest(_swap_env, _swap, _swap_value) AS n (env, key, value)
        WHERE dedup.env = ANY (ARRAY[n.env]) AND dedup.key = n.key AND dedup.value = n.value;
        GET DIAGNOSTICS _count = ROW_COUNT;
        IF _count <> cardinality(_swap) THEN
            RAISE EXCEPTION 'a key has moved' USING ERRCODE = 'SW001';
        END IF;
    END IF;
    IF stepwell.write_group_1(
        _writer, _number,
        _moved, _moved_shard, _moved_from, _moved_to, _moved_status, _moved_ending, _moved_body,
        _ends, _ends_fence, _ends_after, _holds, _holds_fence, _holds_after,
        _drop_jobs, _drop_all_of, _drop_waits, _drop_waits_step, _blob, _blob_body,
        _event, _event_env, _event_shard, _event_name, _event_internal_id, _event_received_at, _event_body,
        _run, _run_env, _run_shard, _run_seq, _run_status, _run_ending, _run_function, _run_service, _run_event,
        _run_parent, _run_created_at, _run_body,
        _entry, _entry_seq, _entry_shard, _entry_version, _entry_body,
        _job, _job_env, _job_shard, _job_run, _job_due, _job_owner, _job_epoch, _job_fence, _job_route, _job_body,
        _key_env, _key, _key_value, _key_until, _key_shard, _key_taken_at, _keys_at,
        _wait, _wait_step, _wait_env, _wait_shard, _wait_event, _wait_path, _wait_value, _wait_body
    ) THEN
        IF _limited THEN
            SELECT s.parked, s.admitted INTO parked, admitted FROM stepwell.settle_slots_1(
                _gone, _drop_all_of, _enter, _enter_run, _enter_shard, _enter_rank, _enter_due, _enter_route,
                _enter_fence, _enter_body, _enter_body_through, _enter_keys, _enter_limits) AS s;
        END IF;
    ELSIF _limited THEN
        SELECT coalesce(array_agg(n.id), '{}') INTO parked FROM unnest(_enter, _enter_fence, _enter_body)
            AS n (id, fence, body)
        WHERE NOT EXISTS (
            SELECT FROM stepwell.job WHERE job.id = ANY (ARRAY[n.id]) AND owner IS NOT NULL
            AND CASE WHEN n.body IS NULL THEN job.claim IS NULL ELSE job.fence = n.fence END
        );
    END IF;
END
$$;
