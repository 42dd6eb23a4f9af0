//! Descriptors that clients pass: sets of them, which files are opened through, and single ones by name (`monitor/fds.c`).
//!
//! The numbers are all that is known here; the descriptors themselves are with whoever serves the clients.

use crate::base::Json;
use crate::qmp::error::QmpError;
use crate::qmp::types::SocketAddress;
use crate::world::World;
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

/// A descriptor's number and `opaque`.
pub type Entry = (i64, Option<Arc<str>>);

/// What clients passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Passed {
    /// The descriptor that came with the command that is sent next.
    pub arriving: Option<i64>,
    /// Sets in the order of their numbers; in each, number and `opaque`, the newest first.
    pub sets: Vec<(i64, Vec<Entry>)>,
    /// Those of `getfd`.
    pub named: Vec<(Arc<str>, i64)>,
    /// Sockets that are used by whoever looked up their names, until whoever serves the clients has taken them.
    pub taken: Vec<i64>,
}

impl Passed {
    /// `monitor_fdset_add_fd`
    pub fn add(&mut self, set: i64, fd: i64, opaque: Option<Arc<str>>) {
        let at = match self.sets.binary_search_by_key(&set, |(known, _)| *known) {
            Ok(at) => at,
            Err(at) => {
                self.sets.insert(at, (set, Vec::new()));
                at
            }
        };
        self.sets[at].1.insert(0, (fd, opaque));
    }

    /// Whether a descriptor is still in use.
    #[must_use]
    pub fn holds(&self, fd: i64) -> bool {
        let in_set = self.sets.iter().flat_map(|(_, fds)| fds).any(|(number, _)| *number == fd);
        in_set || self.named.iter().any(|(_, number)| *number == fd) || self.taken.contains(&fd)
    }

    /// The set that a descriptor is in.
    #[must_use]
    pub fn set_of(&self, fd: i64) -> Option<i64> {
        self.sets.iter().find(|(_, fds)| fds.iter().any(|(number, _)| *number == fd)).map(|(set, _)| *set)
    }
}

fn not_supplied() -> QmpError {
    QmpError::generic("No file descriptor supplied via SCM_RIGHTS")
}

fn not_found(name: &str) -> QmpError {
    QmpError::generic(format!("File descriptor named '{name}' not found"))
}

impl World {
    /// `qmp_add_fd`. Leaves `Val::Json`.
    pub(super) fn add_fd(&mut self, set: Option<i64>, opaque: Option<Arc<str>>) -> Flow {
        let Some(fd) = self.passed.arriving.take() else { return self.ret(Val::Json(Err(not_supplied()))) };
        if set.is_some_and(|set| set < 0) {
            let text = "Parameter 'fdset-id' expects a non-negative value";
            return self.ret(Val::Json(Err(QmpError::generic(text))));
        }
        let sets = &self.passed.sets;
        let set = set.or_else(|| (0..).find(|n| sets.iter().all(|(known, _)| known != n))).unwrap_or(0);
        self.passed.add(set, fd, opaque);
        self.ret(Val::Json(Ok(Json::dict(vec![("fdset-id", Json::Int(set)), ("fd", Json::Int(fd))]))))
    }

    /// `qmp_remove_fd`. Leaves `Val::Done`.
    pub(super) fn remove_fd(&mut self, set: i64, fd: Option<i64>) -> Flow {
        let sets = &mut self.passed.sets;
        let at = sets
            .iter()
            .position(|(known, fds)| *known == set && fd.is_none_or(|fd| fds.iter().any(|(number, _)| *number == fd)));
        let done = match at {
            Some(at) => {
                sets[at].1.retain(|(number, _)| fd.is_some_and(|fd| *number != fd));
                sets.retain(|(_, fds)| !fds.is_empty());
                Ok(())
            }
            None => Err(not_found(&match fd {
                Some(fd) => format!("fdset-id:{set}, fd:{fd}"),
                None => format!("fdset-id:{set}"),
            })),
        };
        self.ret(Val::Done(done))
    }

    /// `qmp_query_fdsets`
    pub(super) fn query_fdsets(&self) -> Json {
        let entry = |(fd, opaque): &Entry| {
            let mut members = vec![("fd", Json::Int(*fd))];
            members.extend(opaque.iter().map(|text| ("opaque", Json::Str(text.clone()))));
            Json::dict(members)
        };
        let set = |(set, fds): &(i64, Vec<Entry>)| {
            let fds = Json::list(fds.iter().rev().map(entry).collect());
            Json::dict(vec![("fdset-id", Json::Int(*set)), ("fds", fds)])
        };
        // The list is made from its end.
        Json::list(self.passed.sets.iter().rev().map(set).collect())
    }

    /// `qmp_getfd`. Leaves `Val::Done`.
    pub(super) fn getfd(&mut self, name: Arc<str>) -> Flow {
        let Some(fd) = self.passed.arriving.take() else { return self.ret(Val::Done(Err(not_supplied()))) };
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let text = "Parameter 'fdname' expects a name not starting with a digit";
            return self.ret(Val::Done(Err(QmpError::generic(text))));
        }
        self.passed.named.retain(|(known, _)| *known != name);
        self.passed.named.push((name, fd));
        self.ret(Val::Done(Ok(())))
    }

    /// An address whose descriptor, if it is one, is known by its number (`monitor_get_fd`).
    ///
    /// # Errors
    /// No client has passed one of that name.
    pub(in crate::world) fn named_socket(&mut self, address: &SocketAddress) -> Result<SocketAddress, QmpError> {
        let SocketAddress::Fd { name, .. } = address else { return Ok(address.clone()) };
        let none = || QmpError::generic(format!("File descriptor named '{name}' has not been found"));
        let at = self.passed.named.iter().position(|(known, _)| known == name).ok_or_else(none)?;
        let number = self.passed.named.remove(at).1;
        self.passed.taken.push(number);
        Ok(SocketAddress::Fd { name: name.clone(), number: Some(number) })
    }

    /// `qmp_closefd`. Leaves `Val::Done`.
    pub(super) fn closefd(&mut self, name: &str) -> Flow {
        let before = self.passed.named.len();
        self.passed.named.retain(|(known, _)| &**known != name);
        let done = if self.passed.named.len() < before { Ok(()) } else { Err(not_found(name)) };
        self.ret(Val::Done(done))
    }
}
