-- What a run fixes: the settings that make its evidence comparable, and their digest.
CREATE TABLE runs (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    digest    TEXT NOT NULL,
    identity  BLOB NOT NULL,                     -- JSON object: dotted key -> value
    paused    INTEGER NOT NULL DEFAULT 0,        -- 1: a person said to leave it alone for now
    created   INTEGER NOT NULL                   -- microseconds since 1970, UTC, as every time here
) STRICT;

-- Texts and files, each stored once. The first byte of data tells how: 0 plain, 1 zstd.
CREATE TABLE blobs (
    id      INTEGER PRIMARY KEY,
    digest  BLOB NOT NULL UNIQUE,                -- BLAKE2b, 16 bytes, over the plain content
    data    BLOB NOT NULL
) STRICT;

CREATE TABLE tasks (
    id         INTEGER PRIMARY KEY,
    run        INTEGER NOT NULL REFERENCES runs (id),
    name       TEXT NOT NULL,                    -- the user's id of the task, unique within a run
    digest     BLOB NOT NULL,                    -- over question, answer and files: tells a changed task from a repeated one
    question   INTEGER NOT NULL REFERENCES blobs (id),
    answer     TEXT,
    original   INTEGER NOT NULL REFERENCES blobs (id),
    workspace  INTEGER REFERENCES blobs (id),    -- manifest of the files a rollout starts with; NULL: none
    priority   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run, name)
) STRICT;

-- A branch is a trajectory with a parent, the step at which it leaves it, and the candidate it takes there.
CREATE TABLE trajectories (
    id           INTEGER PRIMARY KEY,
    task         INTEGER NOT NULL REFERENCES tasks (id),
    parent       INTEGER REFERENCES trajectories (id),
    fork         INTEGER,
    candidate    INTEGER REFERENCES candidates (id),  -- ordinal 0, the policy's own action: a control
    ordinal      INTEGER NOT NULL,
    outcome      TEXT CHECK (outcome IN ('success', 'failure', 'error')),  -- NULL: not ended
    stop_reason  TEXT,
    answer       INTEGER REFERENCES blobs (id),
    error        TEXT,
    started      INTEGER NOT NULL,
    ended        INTEGER
) STRICT;
CREATE UNIQUE INDEX trajectories_place
    ON trajectories (task, ifnull(parent, 0), ifnull(candidate, 0), ordinal);
CREATE INDEX trajectories_parent ON trajectories (parent, fork) WHERE parent IS NOT NULL;

-- The journal: every model reply that was paid for, under the place where it was asked.
CREATE TABLE calls (
    id                 INTEGER PRIMARY KEY,
    trajectory         INTEGER NOT NULL REFERENCES trajectories (id),
    step               INTEGER NOT NULL,         -- -1: of the trajectory as a whole
    module             TEXT NOT NULL,
    ordinal            INTEGER NOT NULL,
    digest             BLOB NOT NULL,            -- of the request
    role               TEXT NOT NULL,
    request            BLOB NOT NULL,            -- messages as references to blobs, see store/requests.py
    reply              INTEGER NOT NULL REFERENCES blobs (id),
    reasoning          INTEGER REFERENCES blobs (id),
    finish_reason      TEXT NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    latency            REAL NOT NULL,            -- seconds
    attempts           INTEGER NOT NULL,
    endpoint           TEXT NOT NULL,
    cost               INTEGER,                  -- millionths of the currency; NULL: no price or no usage was known
    UNIQUE (trajectory, step, role, module, ordinal, digest)
) STRICT;

-- What each run has bought, by role and stage of the method: the sums of `calls`, kept up with them in the same
-- transaction, because a journal of a million calls takes seconds to add up.
CREATE TABLE spending (
    run                INTEGER NOT NULL REFERENCES runs (id),
    role               TEXT NOT NULL,
    stage              TEXT NOT NULL,
    calls              INTEGER NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    cost               INTEGER NOT NULL,         -- of the calls whose cost is known
    unpriced           INTEGER NOT NULL,         -- calls whose cost is not
    unmetered          INTEGER NOT NULL,         -- those of them whose endpoint did not report its tokens
    PRIMARY KEY (run, role, stage)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    trajectory   INTEGER NOT NULL REFERENCES trajectories (id),
    step         INTEGER NOT NULL,
    action_call  INTEGER REFERENCES calls (id),  -- NULL: the candidate that a branch was given
    action       INTEGER NOT NULL REFERENCES blobs (id),
    state        INTEGER NOT NULL REFERENCES blobs (id),  -- the progress state at the action
    observation  INTEGER NOT NULL REFERENCES blobs (id),
    workspace    INTEGER REFERENCES blobs (id),  -- manifest after the action; NULL: no files
    result       INTEGER REFERENCES blobs (id),  -- what stop() was given, if it was called
    failed       INTEGER NOT NULL,               -- 1: the code ended in an error
    seconds      REAL NOT NULL,
    PRIMARY KEY (trajectory, step)
) STRICT, WITHOUT ROWID;

-- Actions considered at a step: the policy's own (ordinal 0) and the alternatives (from 1).
CREATE TABLE candidates (
    id            INTEGER PRIMARY KEY,
    trajectory    INTEGER NOT NULL REFERENCES trajectories (id),
    step          INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    action        INTEGER NOT NULL REFERENCES blobs (id),
    call          INTEGER REFERENCES calls (id),
    duplicate_of  INTEGER,                       -- ordinal of the candidate with the same code
    usable        INTEGER NOT NULL,              -- 0: the reply held no action
    score         REAL CHECK (score BETWEEN 0 AND 1),  -- NULL: unscored, takes no part
    UNIQUE (trajectory, step, ordinal)
) STRICT;

CREATE TABLE pairs (
    id                 INTEGER PRIMARY KEY,
    trajectory         INTEGER NOT NULL REFERENCES trajectories (id),
    step               INTEGER NOT NULL,
    candidate          INTEGER NOT NULL UNIQUE REFERENCES candidates (id),
    digest             TEXT NOT NULL,            -- of the run's identity when the pair was made
    successes          INTEGER NOT NULL,
    rollouts           INTEGER NOT NULL,
    control_successes  INTEGER NOT NULL,
    controls           INTEGER NOT NULL
) STRICT;

-- Facts, in the order in which they were committed. AUTOINCREMENT: a seq is never given twice.
CREATE TABLE events (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    time  INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    run   INTEGER NOT NULL REFERENCES runs (id),
    task  INTEGER REFERENCES tasks (id),
    body  BLOB NOT NULL                          -- JSON array: the fields of the kind, in their order
) STRICT;

-- The few events that status looks for among millions; a query finds its index by the very words of its condition.
CREATE INDEX events_ended ON events (run, kind, task) WHERE kind IN ('task-finished', 'task-cancelled');
CREATE INDEX events_resumed ON events (run) WHERE kind = 'resumed';
CREATE INDEX events_budget_spent ON events (run) WHERE kind = 'budget-spent';

-- What is still owed to handlers. A delivery that is done leaves the table.
CREATE TABLE deliveries (
    handler   TEXT NOT NULL,
    event     INTEGER NOT NULL REFERENCES events (seq),
    run       INTEGER NOT NULL REFERENCES runs (id),
    task      INTEGER REFERENCES tasks (id),
    priority  INTEGER NOT NULL DEFAULT 0,
    attempts  INTEGER NOT NULL DEFAULT 0,
    failing   INTEGER,                           -- time of the first failure; NULL: none yet
    due       INTEGER NOT NULL DEFAULT 0,        -- not before this time
    dead      INTEGER NOT NULL DEFAULT 0,        -- 1: set aside until a person puts it back; 2: at rest, see the budget
    error     TEXT,
    PRIMARY KEY (handler, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_queue ON deliveries (handler, dead, priority DESC, event);
CREATE INDEX deliveries_task ON deliveries (task);
