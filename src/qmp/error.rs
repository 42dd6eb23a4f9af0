//! What a failed command answers (`Error`, util/error.c, as QMP shows it).

use std::sync::Arc;

use crate::base::Json;
use crate::base::errno::Errno;

/// The class of an error (`QapiErrorClass`, qapi/error.json).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// The command is unknown, or not available in this state of the connection.
    CommandNotFound,
    /// The block job does not exist.
    DeviceNotActive,
    /// The device does not exist.
    DeviceNotFound,
    /// The command needs a KVM capability that is missing.
    KvmMissingCap,
}

impl ErrorClass {
    /// The names in replies, in the order of the classes.
    pub const NAMES: [&'static str; 5] =
        ["GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound", "KVMMissingCap"];

    /// The name in replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// An error as a reply carries it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QmpError {
    /// `QapiErrorClass`: `GenericError` but for the few that clients tell apart.
    pub class: ErrorClass,
    /// The text for people.
    pub desc: Arc<str>,
    /// What the function returns that set it, where somebody asks for that.
    pub errno: Option<Errno>,
}

impl QmpError {
    /// An error of class `GenericError` (`error_setg`).
    #[must_use]
    pub fn generic(desc: impl Into<Arc<str>>) -> QmpError {
        QmpError::new(ErrorClass::GenericError, desc)
    }

    /// An error of any class (`error_set`).
    #[must_use]
    pub fn new(class: ErrorClass, desc: impl Into<Arc<str>>) -> QmpError {
        QmpError { class, desc: desc.into(), errno: None }
    }

    /// The same, of a function that returns this errno.
    #[must_use]
    pub fn with_errno(self, errno: Errno) -> QmpError {
        QmpError { errno: Some(errno), ..self }
    }

    /// The value of a reply's `error` member: `{"class": …, "desc": …}`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::dict(vec![("class", Json::str(self.class.name())), ("desc", Json::Str(self.desc.clone()))])
    }
}

impl std::fmt::Display for QmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for QmpError {}
