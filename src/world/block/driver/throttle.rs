//! Throttling: groups of drives and `throttle` nodes that share limits (`block/throttle-groups.c`, `block/throttle.c`).

use super::Driver;
use crate::block::throttle::{Limits, State};
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::types::BlockIoThrottle;
use crate::world::World;
use crate::world::aio::{TimerKind, Wait};
use crate::world::arena::{BackendId, CoId, NodeId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// Who has its requests throttled (`ThrottleGroupMember`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Member {
    /// A `throttle` node.
    Node(NodeId),
    /// A drive with limits of its own.
    Backend(BackendId),
}

impl Member {
    /// A number of its own.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Member::Node(bs) => u64::from(bs.0) << 1,
            Member::Backend(blk) => u64::from(blk.0) << 1 | 1,
        }
    }
}

/// What one member has waiting; each pair is for reads and writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    who: Member,
    pending: [u32; 2],
    queues: [Vec<CoId>; 2],
}

/// `ThrottleGroup`; each pair is for reads and writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// Limits and levels.
    pub state: State,
    /// It is an object that a user made.
    pub object: bool,
    /// Newest first.
    members: Vec<Waiting>,
    tokens: [Option<Member>; 2],
    armed: [bool; 2],
}

/// What a drive's limits are to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DriveLimits {
    blk: BackendId,
    limits: Limits,
    group: Option<Arc<str>>,
}

/// The limits of `-drive`, by their names there.
///
/// # Errors
/// They contradict each other.
pub(in crate::world) fn drive_limits(given: &[(Arc<str>, u64)]) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (name, value) in given {
        limits.set(name.strip_prefix("throttling.").unwrap_or(name), *value);
    }
    limits.check()?;
    Ok(limits)
}

/// All groups, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Throttling {
    /// See [`Group`].
    pub groups: Vec<Group>,
}

impl Throttling {
    /// `throttle_group_by_name`
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| &*group.name == name)
    }

    /// The group of a member.
    #[must_use]
    pub fn group_of(&self, who: Member) -> Option<&Group> {
        self.groups.iter().find(|group| group.members.iter().any(|member| member.who == who))
    }

    fn index_of(&self, who: Member) -> Option<usize> {
        self.groups.iter().position(|group| group.members.iter().any(|member| member.who == who))
    }

    /// A group with these limits.
    pub fn add(&mut self, name: Arc<str>, limits: Limits, object: bool) {
        let state = State::new(limits);
        self.groups.push(Group { name, state, object, members: Vec::new(), tokens: [None; 2], armed: [false; 2] });
    }

    /// Whether a node or drive uses the group.
    #[must_use]
    pub fn in_use(&self, name: &str) -> bool {
        self.group(name).is_some_and(|group| !group.members.is_empty())
    }

    /// `object_unparent` of a group: it lives on as long as it has members.
    pub fn remove_object(&mut self, name: &str) {
        if let Some(group) = self.groups.iter_mut().find(|group| &*group.name == name) {
            group.object = false;
        }
        self.groups.retain(|group| group.object || !group.members.is_empty());
    }
}

impl Group {
    fn member(&mut self, who: Member) -> &mut Waiting {
        self.members.iter_mut().find(|member| member.who == who).expect("it is a member")
    }

    fn pending(&self, who: Member, dir: usize) -> bool {
        self.members.iter().any(|member| member.who == who && member.pending[dir] > 0)
    }

    /// `throttle_group_next_tgm`
    fn next(&self, who: Member) -> Member {
        let at = self.members.iter().position(|member| member.who == who).unwrap_or(0);
        self.members[(at + 1) % self.members.len()].who
    }

    /// `next_throttle_token`
    fn next_token(&self, who: Member, dir: usize, unlimited: bool) -> Member {
        if self.pending(who, dir) && unlimited {
            return who;
        }
        let start = self.tokens[dir].unwrap_or(who);
        let mut token = self.next(start);
        while token != start && !self.pending(token, dir) {
            token = self.next(token);
        }
        if token == start && !self.pending(token, dir) { who } else { token }
    }
}

impl World {
    /// `io_limits_disabled`: the member is being drained.
    fn unlimited(&self, who: Member) -> bool {
        match who {
            Member::Node(bs) => self.graph.nodes.get(bs).is_none_or(|node| node.quiesce_counter > 0),
            Member::Backend(blk) => self.graph.backends.get(blk).is_none_or(|backend| backend.quiesce_counter > 0),
        }
    }

    /// `throttle_group_register_tgm`: a group that is not there is made.
    pub(in crate::world) fn throttle_register(&mut self, who: Member, name: &Arc<str>) {
        if self.throttling.group(name).is_none() {
            self.throttling.add(name.clone(), Limits::default(), false);
        }
        let group = self.throttling.groups.iter_mut().find(|group| group.name == *name).expect("just made");
        for token in &mut group.tokens {
            token.get_or_insert(who);
        }
        group.members.insert(0, Waiting { who, pending: [0; 2], queues: [Vec::new(), Vec::new()] });
    }

    /// `throttle_group_unregister_tgm`. Nothing waits any more.
    pub(super) fn throttle_unregister(&mut self, who: Member) {
        let Some(index) = self.throttling.index_of(who) else { return };
        let group = &mut self.throttling.groups[index];
        for dir in 0..2 {
            if group.tokens[dir] == Some(who) {
                group.tokens[dir] = Some(group.next(who)).filter(|next| *next != who);
            }
        }
        group.members.retain(|member| member.who != who);
        if group.members.is_empty() && !group.object {
            self.throttling.groups.remove(index);
        }
    }

    /// `throttle_reopen_commit`
    pub(in crate::world) fn throttle_move(&mut self, bs: NodeId, name: &Arc<str>) {
        let who = Member::Node(bs);
        if self.throttling.group_of(who).is_some_and(|group| group.name != *name) {
            self.throttle_unregister(who);
            self.throttle_register(who, name);
            if let Some(Driver::Throttle(group)) = &mut self.graph.nodes[bs].driver {
                *group = name.clone();
            }
        }
    }

    /// `throttle_group_schedule_timer`: whether a request has to wait.
    fn throttle_must_wait(&mut self, index: usize, who: Member, dir: usize) -> bool {
        if self.unlimited(who) {
            return false;
        }
        let now = self.now;
        let group = &mut self.throttling.groups[index];
        if group.armed[dir] {
            return true;
        }
        let Some(wait) = group.state.wait(now, dir == 1) else { return false };
        group.tokens[dir] = Some(who);
        group.armed[dir] = true;
        self.timer_set(now.saturating_add(wait), TimerKind::Throttle(who, dir == 1));
        true
    }

    /// `throttle_group_co_io_limits_intercept`: waits for its turn.
    pub(in crate::world) fn throttle_intercept(&mut self, who: Member, write: bool, bytes: u64) -> Flow {
        let Some(index) = self.throttling.index_of(who) else { return Flow::Go };
        let dir = usize::from(write);
        let token = self.throttling.groups[index].next_token(who, dir, self.unlimited(who));
        let must_wait = self.throttle_must_wait(index, token, dir);
        let co = self.current();
        self.stack.push(Frame::ThrottleGo { who, write, bytes });
        let member = self.throttling.groups[index].member(who);
        if must_wait || member.pending[dir] > 0 {
            member.pending[dir] += 1;
            member.queues[dir].push(co);
            self.stack.push(Frame::ThrottleWoken { who, write });
            return Flow::Yield(Wait::Queue("its throttle group"));
        }
        Flow::Go
    }

    /// A request that waited goes on.
    pub(in crate::world) fn throttle_woken(&mut self, who: Member, write: bool) -> Flow {
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].member(who).pending[usize::from(write)] -= 1;
        }
        Flow::Go
    }

    /// A request is carried out: it counts, and the next one has its turn.
    pub(in crate::world) fn throttle_go(&mut self, who: Member, write: bool, bytes: u64) -> Flow {
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].state.account(write, bytes);
            self.throttle_schedule_next(index, who, usize::from(write));
        }
        Flow::Go
    }

    /// `schedule_next_request`
    fn throttle_schedule_next(&mut self, index: usize, who: Member, dir: usize) {
        let group = &self.throttling.groups[index];
        let mut token = group.next_token(who, dir, self.unlimited(who));
        if !group.pending(token, dir) || self.throttle_must_wait(index, token, dir) {
            return;
        }
        if self.aio.current.is_some() && self.throttle_wake_one(index, who, dir) {
            token = who;
        } else {
            let now = self.now;
            self.timer_set(now, TimerKind::Throttle(token, dir == 1));
            self.throttling.groups[index].armed[dir] = true;
        }
        self.throttling.groups[index].tokens[dir] = Some(token);
    }

    /// `throttle_group_co_restart_queue`
    fn throttle_wake_one(&mut self, index: usize, who: Member, dir: usize) -> bool {
        let queue = &mut self.throttling.groups[index].member(who).queues[dir];
        if queue.is_empty() {
            return false;
        }
        let co = queue.remove(0);
        self.aio_co_wake(co);
        true
    }

    /// `throttle_group_restart_queue_entry`, in a coroutine of its own.
    pub(in crate::world) fn throttle_restart(&mut self, who: Member, write: bool) -> Flow {
        let dir = usize::from(write);
        if let Some(index) = self.throttling.index_of(who)
            && !self.throttle_wake_one(index, who, dir)
        {
            self.throttle_schedule_next(index, who, dir);
        }
        Flow::Go
    }

    /// `timer_cb`
    pub(in crate::world) fn throttle_timer(&mut self, who: Member, write: bool) {
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].armed[usize::from(write)] = false;
            let co = self.co_create([Frame::ThrottleRestart { who, write }]);
            self.aio_co_wake(co);
        }
    }

    /// `throttle_group_restart_tgm`: what waits goes on, because the member is drained or its limits are others.
    pub(in crate::world) fn throttle_restart_member(&mut self, who: Member) {
        for write in [false, true] {
            let timer = TimerKind::Throttle(who, write);
            if self.timer_pending(timer) {
                self.timer_del(timer);
                self.throttle_timer(who, write);
            } else if self.throttling.index_of(who).is_some() {
                let co = self.co_create([Frame::ThrottleRestart { who, write }]);
                self.aio_co_wake(co);
            }
        }
    }

    /// `throttle_drain_begin`, for a node that has just become quiet.
    pub(in crate::world) fn throttle_drain_begin(&mut self, bs: NodeId) {
        if matches!(self.graph.nodes[bs].driver, Some(Driver::Throttle(_))) {
            self.throttle_restart_member(Member::Node(bs));
        }
    }

    /// `throttle_group_config`
    pub(super) fn throttle_config(&mut self, who: Member, limits: Limits) {
        let now = self.now;
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].state.configure(limits, now);
            self.throttle_restart_member(who);
        }
    }

    /// `qmp_block_set_io_throttle`. Leaves `Val::Done`.
    pub(in crate::world) fn block_set_io_throttle(&mut self, args: &BlockIoThrottle) -> Flow {
        let fail = |w: &mut World, err: QmpError| w.ret(Val::Done(Err(err)));
        let blk = match self.blk_of(args.device.as_ref(), args.id.as_ref()) {
            Ok(blk) => blk,
            Err(err) => return fail(self, err),
        };
        let Some(bs) = self.graph.blk_bs(blk) else {
            return fail(self, QmpError::generic("Device has no medium"));
        };
        let mut limits = Limits::default();
        for (i, bucket) in limits.buckets.iter_mut().enumerate() {
            // A negative number is a large one, and refused as such.
            bucket.avg = args.limits[i].cast_unsigned();
            bucket.max = args.extras[i].unwrap_or(0).cast_unsigned();
            bucket.burst_length = args.extras[6 + i].unwrap_or(1).cast_unsigned();
        }
        limits.op_size = args.extras[12].unwrap_or(0).cast_unsigned();
        if let Err(text) = limits.check() {
            return fail(self, QmpError::generic(text));
        }
        let known = self.throttling.group_of(Member::Backend(blk)).map(|group| group.name.clone());
        let group = match (&known, &args.group) {
            (None, None) => args.device.clone().or_else(|| args.id.clone()),
            (_, group) => group.clone(),
        };
        let leaves = known.is_some_and(|known| !limits.enabled() || group.as_ref().is_some_and(|name| *name != known));
        let set = Frame::DriveLimits(Box::new(DriveLimits { blk, limits, group }));
        if leaves {
            // What waits is let go before the drive leaves its group.
            return self.seq([Frame::DrainedBegin(bs), set, Frame::KeepOver(Box::new(Frame::DrainedEnd(bs)))]);
        }
        self.seq([set])
    }

    /// `Frame::DriveLimits`. Leaves `Val::Done`.
    pub(in crate::world) fn drive_limits(&mut self, wanted: &DriveLimits) -> Flow {
        let done = self.set_drive_limits(wanted.blk, wanted.limits, wanted.group.as_ref());
        self.ret(Val::Done(done))
    }

    /// `qmp_get_blk`
    ///
    /// # Errors
    /// There is no such drive or device, or both or none were named.
    pub(in crate::world) fn blk_of(
        &self,
        device: Option<&Arc<str>>,
        id: Option<&Arc<str>>,
    ) -> Result<BackendId, QmpError> {
        match (device, id) {
            (None, Some(id)) => self.blk_by_qdev_id(id),
            (Some(device), None) => self
                .graph
                .blk_by_name(device)
                .ok_or_else(|| QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{device}' not found"))),
            _ => Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        }
    }

    /// The limits of a drive, from the command line or by `block_set_io_throttle`.
    ///
    /// # Errors
    /// The limits contradict each other.
    pub(in crate::world) fn set_drive_limits(
        &mut self,
        blk: BackendId,
        limits: Limits,
        group: Option<&Arc<str>>,
    ) -> Result<(), QmpError> {
        limits.check().map_err(QmpError::generic)?;
        let who = Member::Backend(blk);
        let member = self.throttling.group_of(who).map(|known| known.name.clone());
        if limits.enabled() {
            match (member, group) {
                (None, group) => {
                    let name = group.cloned().unwrap_or_else(|| self.graph.backends[blk].name.clone());
                    self.throttle_register(who, &name);
                }
                (Some(known), Some(name)) if known != *name => {
                    self.throttle_unregister(who);
                    self.throttle_register(who, name);
                }
                _ => {}
            }
            self.throttle_config(who, limits);
        } else if member.is_some() {
            self.throttle_unregister(who);
        }
        Ok(())
    }
}
