//! Exports and their clients: the NBD server starts and stops, nodes and bitmaps are exported, and clients read, write and ask what is
//! allocated or dirty, while jobs run on the same drives.
//!
//! The program does not know whether the server let a client in, so each may be refused; what it does then goes nowhere.

use super::program::Program;
use super::shape::waits;
use crate::base::Json;
use crate::scenario::nbd::{MAY_BE_REFUSED, NbdAction, NbdAnswer, NbdStep, Replies};
use crate::scenario::plan::StepKind;
use std::sync::Arc;

/// What programs with exports believe.
#[derive(Clone, Debug, Default)]
pub(super) struct Exports {
    /// The server runs.
    serves: bool,
    list: Vec<Exported>,
    clients: Vec<Connected>,
    /// How many names were made up.
    names: usize,
}

#[derive(Clone, Debug)]
struct Exported {
    id: Arc<str>,
    /// What clients call it.
    name: Arc<str>,
    drive: usize,
    writable: bool,
    bitmaps: Vec<Arc<str>>,
    depth: bool,
}

#[derive(Clone, Debug)]
struct Connected {
    name: Arc<str>,
    drive: usize,
    writable: bool,
    /// It has contexts.
    status: bool,
    /// Requests that were not answered.
    open: usize,
}

/// Requests by their numbers on the wire.
mod ask {
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const FLUSH: u16 = 3;
    pub(super) const TRIM: u16 = 4;
    pub(super) const CACHE: u16 = 5;
    pub(super) const ZERO: u16 = 6;
    pub(super) const STATUS: u16 = 7;
}

/// Requests of a client that has not asked for their answers, at most.
const OPEN: usize = 3;

impl Program<'_> {
    /// Whether the next command is one of these.
    pub(super) fn turns_exports(&mut self) -> bool {
        let n = self.knobs.exports_in_ten;
        n > 0 && self.nbd.below(10) < n as usize
    }

    pub(super) fn next_export(&mut self) {
        let (serves, exports, clients) =
            (self.exports.serves, !self.exports.list.is_empty(), !self.exports.clients.is_empty());
        let weight = |if_so: bool, weight: u32| if if_so { weight } else { 0 };
        match self.nbd.weighted(&[
            (if serves { 1 } else { 12 }, 0),
            (if serves { 6 } else { 1 }, 1),
            (weight(exports, 6), 2),
            (weight(clients, 14), 3),
            (weight(clients, 2), 4),
            (if exports { 3 } else { 1 }, 5),
            (weight(serves, 1), 6),
            (1, 7),
        ]) {
            0 => self.server_starts(),
            1 => self.export_added(),
            2 => self.client_connects(),
            3 => self.client_asks(),
            4 => self.client_leaves(),
            5 => self.export_deleted(),
            6 => self.server_stops(),
            _ => self.command("query-block-exports", vec![]),
        }
        self.settle();
    }

    fn server_starts(&mut self) {
        let data = Json::dict(vec![("path", "nbd.sock".into())]);
        let addr = Json::dict(vec![("type", "unix".into()), ("data", data)]);
        let mut arguments = vec![("addr", addr)];
        if self.nbd.one_in(6) {
            // One client at a time would let a second wait for ever.
            arguments.push(("max-connections", Json::uint(self.nbd.pick(&[0, 100]))));
        }
        self.command("nbd-server-start", arguments);
        self.exports.serves = true;
    }

    fn server_stops(&mut self) {
        self.push("nbd-server-stop", Json::empty());
        self.exports.serves = false;
        self.exports.list.clear();
    }

    fn export_added(&mut self) {
        let drive = self.nbd.below(self.shape.drives.len());
        let (node, name) = (self.shape.drives[drive].node.clone(), self.shape.drives[drive].name.clone());
        let writable = self.nbd.one_in(2);
        let id: Arc<str> = format!("e{}", self.exports.names).into();
        self.exports.names += 1;
        let bitmap = match self.shape.drives[drive].bitmaps.clone() {
            known if known.is_empty() || self.nbd.one_in(3) => None,
            known => Some(self.nbd.pick(&known)),
        };
        // An export that nobody writes to takes no bitmap that records.
        if let Some(bitmap) = bitmap.as_ref().filter(|_| !writable && !self.nbd.one_in(4)) {
            let arguments = vec![("node", Json::Str(node.clone())), ("name", Json::Str(bitmap.clone()))];
            self.command("block-dirty-bitmap-disable", arguments);
        }
        let optional = |on: bool, member: &'static str| on.then_some((member, Json::Bool(true)));
        if self.nbd.one_in(4) {
            let mut arguments = vec![("device", Json::Str(name.clone()))];
            arguments.extend(optional(writable, "writable"));
            arguments.extend(bitmap.iter().map(|bitmap| ("bitmap", Json::Str(bitmap.clone()))));
            self.command("nbd-server-add", arguments);
            let bitmaps = bitmap.into_iter().collect();
            self.exports.list.push(Exported { id: name.clone(), name, drive, writable, bitmaps, depth: false });
            return;
        }
        let mut arguments =
            vec![("type", "nbd".into()), ("id", Json::Str(id.clone())), ("node-name", Json::Str(node.clone()))];
        arguments.extend(optional(writable, "writable"));
        arguments.extend(optional(self.nbd.one_in(6), "writethrough"));
        let depth = self.nbd.one_in(3);
        arguments.extend(optional(depth, "allocation-depth"));
        let called = if self.nbd.one_in(2) { node.clone() } else { format!("x{}", self.exports.names).into() };
        if called != node {
            arguments.push(("name", Json::Str(called.clone())));
        }
        if self.nbd.one_in(6) {
            arguments.push(("description", "what it is".into()));
        }
        if let Some(bitmap) = &bitmap {
            let by_node = Json::dict(vec![("node", Json::Str(node)), ("name", Json::Str(bitmap.clone()))]);
            let named = if self.nbd.one_in(3) { by_node } else { Json::Str(bitmap.clone()) };
            arguments.push(("bitmaps", Json::list(vec![named])));
        }
        self.command("block-export-add", arguments);
        let bitmaps = bitmap.into_iter().collect();
        self.exports.list.push(Exported { id, name: called, drive, writable, bitmaps, depth });
    }

    fn export_deleted(&mut self) {
        let mut id: Arc<str> = "e0".into();
        if !self.exports.list.is_empty() && !self.nbd.one_in(8) {
            let at = self.nbd.below(self.exports.list.len());
            id = self.exports.list.remove(at).id;
        }
        let (command, member) = match self.nbd.one_in(4) {
            true => ("nbd-server-remove", "name"),
            false => ("block-export-del", "id"),
        };
        let mut arguments = vec![(member, Json::Str(id))];
        if !self.nbd.one_in(3) {
            arguments.push(("mode", self.nbd.pick(&["safe", "hard", "hard"]).into()));
        }
        self.command(command, arguments);
    }

    fn nbd_step(&mut self, client: &Arc<str>, action: NbdAction) {
        self.steps.push(StepKind::Nbd(NbdStep { client: client.clone(), action }));
    }

    fn client_connects(&mut self) {
        let export = self.exports.list[self.nbd.below(self.exports.list.len())].clone();
        let name: Arc<str> = format!("c{}", self.exports.names).into();
        self.exports.names += 1;
        let replies = self.nbd.pick(&[Replies::Structured, Replies::Structured, Replies::Extended, Replies::Simple]);
        let mut contexts: Vec<Arc<str>> = Vec::new();
        if replies != Replies::Simple {
            if self.nbd.one_in(2) {
                contexts.push("base:allocation".into());
            }
            if export.depth && self.nbd.one_in(2) {
                contexts.push("qemu:allocation-depth".into());
            }
            for bitmap in &export.bitmaps {
                contexts.push(format!("qemu:dirty-bitmap:{bitmap}").into());
            }
        }
        let called = if self.nbd.one_in(12) { "nope".into() } else { export.name };
        let status = !contexts.is_empty();
        let refused = Some(MAY_BE_REFUSED.into());
        self.nbd_step(&name, NbdAction::Connect { export: called, replies, contexts, refused, silent: false });
        let (drive, writable) = (export.drive, export.writable);
        self.exports.clients.push(Connected { name, drive, writable, status, open: 0 });
    }

    fn client_asks(&mut self) {
        let at = self.nbd.below(self.exports.clients.len());
        let client = self.exports.clients[at].clone();
        let (mut offset, mut length) = super::guest::range(self.shape.drives[client.drive].size, &mut self.nbd);
        let writes = if client.writable { 6 } else { 1 };
        let kind = self.nbd.weighted(&[
            (6, ask::READ),
            (writes, ask::WRITE),
            (1, ask::FLUSH),
            (writes / 2, ask::TRIM),
            (1, ask::CACHE),
            (writes / 2, ask::ZERO),
            (if client.status { 8 } else { 1 }, ask::STATUS),
        ]);
        if kind == ask::STATUS && self.nbd.one_in(2) {
            (offset, length) = (0, self.shape.drives[client.drive].size / 512 * 512);
        }
        if self.wrong.one_in(self.knobs.wrong_one_in) {
            (offset, length) = self.wrong.pick(&[(1 << 40, 512), (offset + 100, 1000), (offset, 0)]);
        }
        let flags = match kind {
            ask::FLUSH => 0,
            ask::STATUS if self.nbd.one_in(3) => 8,
            ask::WRITE | ask::TRIM if self.nbd.one_in(4) => 1,
            ask::READ if self.nbd.one_in(4) => 4,
            ask::ZERO => self.nbd.pick(&[0, 0, 1, 2, 16]),
            _ => 0,
        };
        if kind == ask::FLUSH {
            (offset, length) = (0, 0);
        }
        let pattern = if kind == ask::WRITE { self.nbd.range(1, 255) as u8 } else { 0 };
        self.nbd_step(&client.name, NbdAction::Ask { kind, offset, length, pattern, flags });
        self.exports.clients[at].open += 1;
        let open = self.exports.clients[at].open;
        if waits(self.knobs.kind) || open == OPEN || self.nbd.one_in(2) {
            self.client_is_answered(at);
        }
    }

    /// It waits for all answers that are still to come.
    fn client_is_answered(&mut self, at: usize) {
        let name = self.exports.clients[at].name.clone();
        for _ in 0..std::mem::take(&mut self.exports.clients[at].open) {
            self.nbd_step(&name, NbdAction::Answer(NbdAnswer::Any));
        }
    }

    fn client_leaves(&mut self) {
        let at = self.nbd.below(self.exports.clients.len());
        if self.nbd.one_in(2) {
            self.client_is_answered(at);
        }
        let client = self.exports.clients.remove(at);
        let how = if self.nbd.one_in(2) { NbdAction::Disconnect } else { NbdAction::Gone };
        self.nbd_step(&client.name, how);
    }

    /// All clients get their answers, and some leave, before the program ends.
    pub(super) fn clients_end(&mut self) {
        while !self.exports.clients.is_empty() {
            self.client_is_answered(0);
            let client = self.exports.clients.remove(0);
            if self.nbd.one_in(2) {
                self.nbd_step(&client.name, NbdAction::Disconnect);
            }
        }
    }
}
