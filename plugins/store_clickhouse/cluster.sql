-- The schema of a cluster. Run it once by hand, and then `eventmill migrate`, which finds its tables.
--
-- Not yet tested on a cluster. Tested: all queries, inserts and erasures against these tables on one shard, without
-- Keeper (with the engines replaced by their plain forms).
--
-- Requirements: Keeper, a cluster in `remote_servers` with <internal_replication>true</internal_replication> for its
-- shards, and the macros {cluster}, {shard} and {replica}. The user of eventmill needs a profile with
--     distributed_foreground_insert = 1         the shard confirms an insert, not a spool on the way
--     insert_quorum = 'auto', insert_quorum_parallel = 0, select_sequential_consistency = 1
--                                               a confirmed row survives a lost replica, and every replica returns it

CREATE TABLE events_shard ON CLUSTER '{cluster}' (
    project LowCardinality(String),
    event_name LowCardinality(String),
    timestamp DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(timestamp_ms, 'UTC'),
    event_id String CODEC(ZSTD(1)),
    channel LowCardinality(String),
    user_id String CODEC(ZSTD(1)),
    campaign_id LowCardinality(String),
    tags Array(LowCardinality(String)),
    metadata String CODEC(ZSTD(3)),
    received_at DateTime64(3, 'UTC') DEFAULT fromUnixTimestamp64Milli(received_at_ms, 'UTC'),
    version UInt64,
    timestamp_ms Int64 EPHEMERAL,
    received_at_ms Int64 EPHEMERAL
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/events', '{replica}', version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (project, event_name, timestamp, event_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1,
    min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1;

-- The sharding key is a function of the identity, so all versions of an event are on one shard, where they are merged.
CREATE TABLE events ON CLUSTER '{cluster}' AS events_shard
ENGINE = Distributed('{cluster}', currentDatabase(), events_shard, cityHash64(project, event_name, event_id));

-- Every server has all tombstones, so that each shard can hide erased events.
CREATE TABLE erasures ON CLUSTER '{cluster}' (
    project String,
    user_id String,
    until DateTime64(3, 'UTC'),
    erased_at DateTime DEFAULT now()
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/all/{database}/erasures', '{shard}-{replica}', until)
ORDER BY (project, user_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;

CREATE TABLE eventmill_migrations ON CLUSTER '{cluster}' (
    number UInt32,
    readable_from UInt32,
    applied_at DateTime DEFAULT now()
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/all/{database}/eventmill_migrations', '{shard}-{replica}')
ORDER BY number
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;

-- The tables above are the result of the migrations of `eventmill migrate`.
INSERT INTO eventmill_migrations (number, readable_from) VALUES (1, 1), (2, 1), (3, 1);

-- A cluster from an older version of this file, which records only migration 1, needs:
-- ALTER TABLE events_shard ON CLUSTER '{cluster}' MODIFY SETTING
--     min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;
-- the same for erasures and eventmill_migrations (and there fsync_after_insert = 1, fsync_part_directory = 1), then
-- INSERT INTO eventmill_migrations (number, readable_from) VALUES (2, 1);
-- And one that records migrations 1 and 2:
-- ALTER TABLE events_shard ON CLUSTER '{cluster}' MODIFY SETTING
--     min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1;
-- INSERT INTO eventmill_migrations (number, readable_from) VALUES (3, 1);

-- For a retention, and again whenever EVENTMILL_RETENTION_DAYS changes:
-- ALTER TABLE events_shard ON CLUSTER '{cluster}' MODIFY TTL toDateTime(timestamp) + toIntervalDay(365);

-- An erasure hides events at once, but ClickHouse cannot change rows through a Distributed table. To remove the content
-- from the disks, too:
--     ALTER TABLE events_shard ON CLUSTER '{cluster}'
--         UPDATE user_id = '', channel = '', campaign_id = '', tags = [], metadata = '{}'
--         WHERE project = '…' AND user_id = '…' AND timestamp <= '…';
