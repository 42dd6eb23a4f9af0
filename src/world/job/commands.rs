//! The commands that start jobs of a type, as a table of each type. The monitor walks these tables and knows no type of job.

use crate::base::Json;
use crate::qmp::command::Command;
use crate::qmp::hmp::args::HmpArgs;
use crate::qmp::types::TransactionAction;
use crate::world::World;
use crate::world::arena::{TranId, TxnId};
use crate::world::frame::Flow;

/// The commands that start jobs of one type.
pub struct JobCommands {
    /// `qmp_…`: carries the command out if it is one of these, and gives it back if it is not.
    pub qmp: fn(&mut World, Command) -> Result<Flow, Command>,
    /// `hmp_…`
    pub hmp: &'static [HmpJobCommand],
    /// The actions of a transaction that start such jobs, if there are any.
    pub actions: Option<JobActions>,
    /// The type's name, and the word that `info block-jobs` has for such a job in place of `Type NAME,` (`hmp_info_block_jobs`).
    pub listed_as: Option<(&'static str, &'static str)>,
}

/// `TransactionActionDrv` of the actions that start jobs of one type: a transaction starts the job when it is committed, cancels it when it is
/// aborted, and ends the drained section when it is cleaned up.
pub struct JobActions {
    /// `type`
    pub names: &'static [&'static str],
    /// Prepares the action that stands at that place of that transaction, for the group if there is one: drains what it copies, makes the job,
    /// and notes both in the transaction's `ActionState::Job`. Leaves `Val::Done`.
    pub prepare: fn(&mut World, (TranId, usize), TransactionAction, Option<TxnId>) -> Flow,
}

/// A command of the human monitor that starts a job by the QMP command of the same name, which is written with `-` for `_`.
pub struct HmpJobCommand {
    /// Its name in the human monitor.
    pub name: &'static str,
    /// The arguments of the QMP command.
    pub arguments: fn(&HmpArgs) -> Vec<(&'static str, Json)>,
}

/// The arguments that commands have in common which copy a drive to a new or an existing image.
pub(in crate::world) fn copy_arguments(args: &HmpArgs) -> Vec<(&'static str, Json)> {
    let text = |key: &'static str| args.text(key).map(|text| (key, Json::str(text)));
    let mode = if args.on("reuse") { "existing" } else { "absolute-paths" };
    let sync = if args.on("full") { "full" } else { "top" };
    let device = Json::str(args.text("device").unwrap_or_default());
    let mut members = vec![("device", device), ("sync", sync.into()), ("mode", mode.into())];
    members.extend(text("target"));
    members.extend(text("format"));
    members.extend(args.on("compress").then_some(("compress", true.into())));
    members
}
