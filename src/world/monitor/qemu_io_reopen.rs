//! `reopen` of qemu-io: a drive's node is opened again with other options (`qemu-io-cmds.c:reopen_f`).

use super::qemu_io::QemuIoFrame;
use crate::base::Json;
use crate::block::qemu_io::Reopen as Command;
use crate::qmp::drive::split_options;
use crate::world::World;
use crate::world::arena::BackendId;
use crate::world::block::drain::DrainFrame;
use crate::world::block::open::reopen::{Reopen, ReopenFrame};
use crate::world::block::perms::perm;
use crate::world::frame::Flow;
use crate::world::value::Val;
use std::sync::Arc;

impl World {
    /// `reopen_f`, up to the drain of what becomes read-only.
    pub(super) fn qemu_io_reopen(&mut self, blk: BackendId, reopen: Box<Command>) -> Flow {
        let Some(bs) = self.graph.blk_bs(blk) else {
            Self::qemu_segfaults(format!("drive {}", self.graph.backends[blk].name), "reopen_f: it has no medium");
        };
        let backend = &self.graph.backends[blk];
        let writethrough = reopen.cache.map_or(!backend.write_cache, |cache| cache.writethrough);
        if writethrough == backend.write_cache && backend.dev.is_some() {
            return self.qemu_io_reports("Cannot change cache.writeback: Device attached");
        }
        let rdwr = reopen.read_only.map_or(self.graph.nodes[bs].flags.rdwr, |read_only| !read_only);
        let go_on = QemuIoFrame::QemuIoReopen { blk, reopen }.into();
        if rdwr {
            return self.seq([go_on]);
        }
        self.seq([DrainFrame::DrainedBegin(bs).into(), DrainFrame::DrainedEnd(bs).into(), go_on])
    }

    /// The rest of `reopen_f`.
    pub(super) fn qemu_io_reopen_drained(&mut self, blk: BackendId, reopen: &Command) -> Flow {
        let bs = self.graph.blk_bs(blk).expect("it had a medium");
        let backend = &self.graph.backends[blk];
        let (taken, shared, write_cache) = (backend.perm, backend.shared, backend.write_cache);
        let flags = self.graph.nodes[bs].flags;
        let read_only = reopen.read_only.unwrap_or(!flags.rdwr);
        if read_only {
            let taken = taken & !(perm::WRITE | perm::WRITE_UNCHANGED);
            self.blk_set_perm(blk, taken, shared).expect("giving up permissions cannot cause a conflict");
        }
        let mut given: Vec<(Arc<str>, Json)> = Vec::new();
        for (key, value) in reopen.options.iter().flat_map(|text| split_options(text)) {
            given.retain(|(other, _)| **other != *key);
            given.push((key.into(), Json::str(&value)));
        }
        let has = |given: &[(Arc<str>, Json)], name: &str| given.iter().any(|(key, _)| &**key == name);
        let on = |on: bool| Json::str(if on { "on" } else { "off" });
        match (has(&given, "read-only"), reopen.read_only) {
            (true, Some(_)) => return self.qemu_io_reports("Cannot set both -r/-w and 'read-only'"),
            (true, None) => {}
            (false, _) => given.push(("read-only".into(), on(read_only))),
        }
        match (has(&given, "cache.direct") || has(&given, "cache.no-flush"), reopen.cache) {
            (true, Some(_)) => return self.qemu_io_reports("Cannot set both -c and the cache options"),
            (true, None) => {}
            (false, cache) => {
                let (direct, no_flush) =
                    cache.map_or((flags.nocache, flags.no_flush), |cache| (cache.direct, cache.no_flush));
                given.push(("cache.direct".into(), on(direct)));
                given.push(("cache.no-flush".into(), on(no_flush)));
            }
        }
        let writethrough = reopen.cache.map_or(!write_cache, |cache| cache.writethrough);
        match Reopen::with_texts(self, bs, &given) {
            Ok(reopen) => self.seq([
                ReopenFrame::Reopen(Box::new(reopen)).into(),
                QemuIoFrame::QemuIoReopened { blk, writethrough }.into(),
            ]),
            Err(err) if err.desc.starts_with("not simulated: ") => self.give_instead(Val::Json(Err(err))),
            Err(err) => self.qemu_io_reports(&err.desc),
        }
    }

    /// The end of `reopen_f`.
    pub(super) fn qemu_io_reopened(&mut self, blk: BackendId, writethrough: bool) -> Flow {
        match self.take_done() {
            Ok(()) => {
                self.graph.backends[blk].write_cache = !writethrough;
                Flow::Go
            }
            Err(err) => self.qemu_io_reports(&err.desc),
        }
    }
}
