//! The envelope of a request (qapi/qmp-dispatch.c:qmp_dispatch_check_obj) and of its reply.

use std::sync::Arc;

use super::command::{Command, known_command, parse_command};
use super::error::{ErrorClass, QmpError};
use super::hash_order::wire_order;
use super::names::OOB_COMMANDS;
use crate::base::Json;
use crate::version::Version;

/// A request whose envelope is in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What to execute.
    pub command: Arc<str>,
    /// The arguments, an object (empty if there were none).
    pub args: Json,
    /// To be echoed in the reply.
    pub id: Option<Json>,
    /// Asked for with `exec-oob`.
    pub oob: bool,
}

/// An error with the `id` its reply has to carry.
pub type RequestError = (QmpError, Option<Json>);

/// Checks the envelope. Members are looked at in the order QEMU's dictionary lists them.
///
/// # Errors
/// What is wrong, and the request's `id` if it has one.
pub fn parse_request(request: &Json, oob_enabled: bool) -> Result<Request, RequestError> {
    let Json::Dict(members) = request else {
        return Err((QmpError::generic("QMP input must be a JSON object"), None));
    };
    let id = request.get("id").cloned();
    let mut exec: Option<(&str, &Arc<str>)> = None;
    for index in wire_order(members) {
        let (key, value) = &members[index];
        match &**key {
            name @ ("execute" | "exec-oob") if name == "execute" || oob_enabled => {
                let Json::Str(command) = value else {
                    let text = format!("QMP input member '{name}' must be a string");
                    return Err((QmpError::generic(text), id));
                };
                if let Some((first, _)) = exec {
                    let text = format!("QMP input member '{name}' clashes with '{first}'");
                    return Err((QmpError::generic(text), id));
                }
                exec = Some((name, command));
            }
            "arguments" => {
                if !matches!(value, Json::Dict(_)) {
                    return Err((QmpError::generic("QMP input member 'arguments' must be an object"), id));
                }
            }
            "id" => {}
            name => return Err((QmpError::generic(format!("QMP input member '{name}' is unexpected")), id)),
        }
    }
    let Some((how, command)) = exec else {
        return Err((QmpError::generic("QMP input lacks member 'execute'"), id));
    };
    let args = request.get("arguments").cloned().unwrap_or_else(Json::empty);
    Ok(Request { command: command.clone(), args, id, oob: how == "exec-oob" })
}

impl Request {
    /// What `qmp_dispatch` looks at before it runs the handler.
    ///
    /// `negotiated` says whether the connection has left capabilities negotiation.
    ///
    /// # Errors
    /// Unknown command, not allowed now or out of band.
    pub fn dispatchable(&self, negotiated: bool, version: Version) -> Result<(), QmpError> {
        if !negotiated && &*self.command != "qmp_capabilities" {
            let text = "Expecting capabilities negotiation with 'qmp_capabilities'";
            return Err(QmpError::new(ErrorClass::CommandNotFound, text));
        }
        known_command(&self.command, version)?;
        if self.oob && !OOB_COMMANDS.contains(&&*self.command) {
            return Err(QmpError::generic(format!("The command {} does not support OOB", self.command)));
        }
        Ok(())
    }

    /// The command with its arguments read.
    ///
    /// # Errors
    /// As [`Request::dispatchable`], or what is wrong with the arguments.
    pub fn typed(&self, negotiated: bool, version: Version) -> Result<Command, QmpError> {
        self.dispatchable(negotiated, version)?;
        parse_command(&self.command, &self.args, version)
    }
}

/// A reply: `return` or `error`, and the request's `id`.
#[must_use]
pub fn reply(outcome: Result<Json, QmpError>, id: Option<Json>) -> Json {
    let mut members = vec![match outcome {
        Ok(value) => (Arc::from("return"), value),
        Err(error) => (Arc::from("error"), error.to_json()),
    }];
    members.extend(id.map(|id| (Arc::from("id"), id)));
    Json::Dict(Arc::new(members))
}
