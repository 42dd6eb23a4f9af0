//! What jobs and groups of jobs do: their statuses, their events, how they end.

pub(super) mod group_completion;
pub(super) mod job_events;
pub(super) mod job_tables;
pub(super) mod quiet;
pub(super) mod ready_once;
pub(super) mod transaction_undone;
