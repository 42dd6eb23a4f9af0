//! What a client's commands say: members by their names, the actions of a transaction, the jobs that backups make.

use crate::base::Json;

/// A member that is a text.
pub(super) fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// The actions of a transaction, or the command itself: name and arguments.
pub(super) fn actions(command: &Json) -> Vec<(&str, &Json)> {
    let (Some(name), Some(arguments)) = (text(command, "execute"), command.get("arguments")) else { return Vec::new() };
    if name != "transaction" {
        return vec![(name, arguments)];
    }
    let list = arguments.get("actions").and_then(Json::as_list).unwrap_or_default();
    list.iter().filter_map(|action| Some((text(action, "type")?, action.get("data")?))).collect()
}

/// The name of the job that a backup makes.
pub(super) fn job_id(data: &Json) -> Option<&str> {
    text(data, "job-id").or_else(|| text(data, "device"))
}
