//! The blkdebug filter in the world: its events, its rules (`block/blkdebug.c`). What needs no world is in `block/blkdebug`.

use super::Driver;
use crate::base::errno::Errno;
use crate::block::blkdebug::{Blkdebug, IoType, Limits, Rule};
use crate::block::blkdebug_config;
use crate::block::event::BlkdebugEvent;
use crate::quirk::Quirk;
use crate::trace::{Level, RecordKind};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::arena::NodeId;
use crate::world::block::edges::Role;
use crate::world::block::filename::{Described, filename};
use crate::world::block::graph::Node;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::feed::Seen;
use std::sync::Arc;

/// `BDRVBlkdebugState`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlkdebugDriver {
    /// Rules, state, breakpoints and limits.
    pub engine: Blkdebug,
    /// `take-child-perms`
    pub take_child_perms: u8,
    /// `unshare-child-perms`
    pub unshare_child_perms: u8,
    /// `config`
    pub config: Option<Arc<str>>,
}

/// Bytes that a file of blkdebug's rules has at most.
const MAX_CONFIG: u64 = 1 << 20;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum BlkdebugFrame {
    RuleCheck { node: NodeId, iotype: IoType, offset: u64, bytes: u64 },
    BlkdebugEvent { node: NodeId, event: BlkdebugEvent },
    ChildEvent { node: NodeId, event: BlkdebugEvent },
}

impl BlkdebugFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            BlkdebugFrame::RuleCheck { node, iotype, offset, bytes } => w.rule_check(node, iotype, offset, bytes),
            BlkdebugFrame::BlkdebugEvent { node, event } => w.blkdebug_event(node, event),
            BlkdebugFrame::ChildEvent { node, event } => w.child_event(node, event),
        }
    }
}

/// `blkdebug_child_perm`
pub(super) fn child_perm(node: &Node, _: Role, taken: u8, shared: u8) -> (u8, u8) {
    let Driver::Blkdebug(blkdebug) = node.drv() else { unreachable!("it is its driver's hook") };
    (taken | blkdebug.take_child_perms, shared & !blkdebug.unshare_child_perms)
}

impl World {
    /// `blkdebug_refresh_filename`: a name says no more than the file with the rules.
    pub(super) fn blkdebug_refresh_filename(&self, node: NodeId, described: Described<'_>) -> Arc<str> {
        let n = &self.graph.nodes[node];
        let (Driver::Blkdebug(blkdebug), Some(below)) = (n.drv(), described.below) else { return "".into() };
        let exact = self.exact_filename_of(below);
        if exact.is_empty() || described.given.iter().any(|(name, _)| &**name != "config") {
            return "".into();
        }
        filename(format!("blkdebug:{}:{exact}", blkdebug.config.as_deref().unwrap_or_default()))
    }

    /// The blkdebug driver of a node.
    pub(in crate::world) fn blkdebug_mut(&mut self, node: NodeId) -> Option<&mut BlkdebugDriver> {
        match self.graph.nodes.get_mut(node)?.driver.as_mut()? {
            Driver::Blkdebug(b) => Some(b),
            _ => None,
        }
    }

    /// `wait_break`'s condition.
    #[must_use]
    pub(in crate::world) fn blkdebug_is_suspended(&self, node: NodeId, tag: &str) -> bool {
        match self.graph.nodes.get(node).and_then(|n| n.driver.as_ref()) {
            Some(Driver::Blkdebug(b)) => b.engine.is_suspended(tag),
            _ => false,
        }
    }

    /// `BLKDBG_CO_EVENT` on the child `bs->file` of a node.
    pub(in crate::world) fn child_event(&mut self, node: NodeId, event: BlkdebugEvent) -> Flow {
        match self.graph.nodes[node].file {
            Some(child) => {
                let below = self.graph.bs(child);
                self.blkdebug_event(below, event)
            }
            None => Flow::Go,
        }
    }

    /// `blkdebug_co_debug_event`, if the node is a blkdebug.
    fn blkdebug_event(&mut self, node: NodeId, event: BlkdebugEvent) -> Flow {
        let Driver::Blkdebug(driver) = self.graph.nodes[node].drv() else { return Flow::Go };
        if !driver.engine.listens(event) {
            return Flow::Go;
        }
        let co = self.current();
        let driver = self.blkdebug_mut(node).expect("just looked");
        let effects = driver.engine.event(event, co.0);
        if self.trace.wants(Level::Io) {
            let name = self.graph.nodes[node].node_name.clone();
            if let Some(change) = &effects.state {
                let (from, to) = (change.from.unsigned_abs(), change.to.unsigned_abs());
                let kind = || RecordKind::BlkdebugState { node: name, event: event.name(), from, to };
                self.trace.emit(Level::Io, self.now, kind);
            }
        }
        if let Some(tag) = effects.suspended.first() {
            for tag in &effects.suspended {
                self.console(&crate::block::blkdebug::suspended_text(tag));
            }
            // The result of what came before is still wanted afterwards.
            let kept = self.take_val();
            self.push(Frame::Give(Box::new(kept)));
            return Flow::Yield(Wait::Suspended(tag.clone()));
        }
        Flow::Go
    }

    /// `blkdebug.c:rule_check`. Leaves `Val::Ret`.
    fn rule_check(&mut self, node: NodeId, iotype: IoType, offset: u64, bytes: u64) -> Flow {
        let quirks = self.quirks;
        let driver = self.blkdebug_mut(node).expect("the node is a blkdebug");
        let Some(failure) = driver.engine.check(iotype, offset, bytes) else {
            return self.ret(Val::Ret(Ok(())));
        };
        if let Some(rule) = failure.rule.filter(|rule| driver.engine.fires_once(*rule)) {
            if quirks.has(Quirk::BlkdebugOnceRearms) {
                driver.engine.rearm(rule);
            }
            let name = self.graph.nodes[node].node_name.clone();
            self.see(|| Seen::Fault { node, name, rule, once: true });
        }
        if self.trace.wants(Level::Io) {
            let name = self.graph.nodes[node].node_name.clone();
            let (rule, errno) = (failure.rule.map_or(u32::MAX, u32::from), failure.errno);
            let kind = || RecordKind::Fault { node: name, rule, errno, op: iotype.name(), offset, bytes };
            self.trace.emit(Level::Io, self.now, kind);
        }
        let result = Val::err(failure.errno);
        if failure.immediately {
            return self.ret(result);
        }
        self.push(Frame::Give(Box::new(result)));
        self.co_reschedule()
    }

    /// Rules of a file, then those given as options.
    pub(in crate::world) fn blkdebug_engine(
        &self,
        rules: &[Rule],
        config: Option<&Arc<str>>,
        limits: Limits,
    ) -> Result<Blkdebug, String> {
        let mut all = Vec::new();
        // Where nothing is in it, a device of the host's serves as well.
        if let Some(path) = config.filter(|path| ***path != *"/dev/null") {
            let file = self.files.get(&self.files.key(path));
            let file = file.ok_or_else(|| blkdebug_config::open_error(Errno::ENOENT))?;
            if file.size > MAX_CONFIG {
                return Err(format!("Could not read blkdebug config file: it has more than {MAX_CONFIG} bytes"));
            }
            let text = file.content.read(0, file.size).to_bytes();
            all = blkdebug_config::parse(&String::from_utf8_lossy(&text))?;
        }
        all.extend_from_slice(rules);
        Ok(Blkdebug::new(&all, limits))
    }
}
