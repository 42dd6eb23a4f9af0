//! Throttling: groups of drives and `throttle` nodes that share limits (`block/throttle-groups.c`, `block/throttle.c`).

use super::Driver;
use crate::block::throttle::{Limits, ThrottleState};
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::timer::TimerKind;
use crate::world::arena::{CoId, Member, NodeId};
use crate::world::block::driver::DriverFrame;
use crate::world::block::io::request::WriteReq;
use crate::world::frame::{Flow, Frame};
use std::sync::Arc;

/// What one member has waiting; each pair is for reads and writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    pub(in crate::world) who: Member,
    pending: [u32; 2],
    queues: [Vec<CoId>; 2],
}

/// `ThrottleGroup`; each pair is for reads and writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThrottleGroup {
    /// The `id` of the object, or the drive's own name.
    pub name: Arc<str>,
    /// Limits and levels.
    pub state: ThrottleState,
    /// It is an object that a user made.
    pub object: bool,
    /// Newest first.
    members: Vec<Waiting>,
    tokens: [Option<Member>; 2],
    armed: [bool; 2],
}

crate::base::time::rebase!(ThrottleGroup {
    moves: state;
    rest: name, object, members, tokens, armed
});

/// All groups, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Throttling {
    /// See [`ThrottleGroup`].
    pub groups: Vec<ThrottleGroup>,
}

crate::base::time::rebase!(Throttling {
    moves: groups;
    rest:
});

impl Throttling {
    /// `throttle_group_by_name`
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&ThrottleGroup> {
        self.groups.iter().find(|group| &*group.name == name)
    }

    /// The group of a member.
    #[must_use]
    pub fn group_of(&self, who: Member) -> Option<&ThrottleGroup> {
        self.groups.iter().find(|group| group.members.iter().any(|member| member.who == who))
    }

    fn index_of(&self, who: Member) -> Option<usize> {
        self.groups.iter().position(|group| group.members.iter().any(|member| member.who == who))
    }

    /// A group with these limits.
    pub fn add(&mut self, name: Arc<str>, limits: Limits, object: bool) {
        let state = ThrottleState::new(limits);
        self.groups.push(ThrottleGroup {
            name,
            state,
            object,
            members: Vec::new(),
            tokens: [None; 2],
            armed: [false; 2],
        });
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

impl ThrottleGroup {
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

/// A request of a `throttle` node waits for its turn.
pub(super) fn throttled(node: NodeId, write: bool, bytes: u64) -> Frame {
    ThrottleFrame::ThrottleWait { who: Member::Node(node), write, bytes }.into()
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum ThrottleFrame {
    ThrottleWait { who: Member, write: bool, bytes: u64 },
    ThrottleWoken { who: Member, write: bool },
    ThrottleGo { who: Member, write: bool, bytes: u64 },
    ThrottleRestart { who: Member, write: bool },
}

impl ThrottleFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            ThrottleFrame::ThrottleWait { who, write, bytes } => w.throttle_intercept(who, write, bytes),
            ThrottleFrame::ThrottleWoken { who, write } => w.throttle_woken(who, write),
            ThrottleFrame::ThrottleGo { who, write, bytes } => w.throttle_go(who, write, bytes),
            ThrottleFrame::ThrottleRestart { who, write } => w.throttle_restart(who, write),
        }
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
    pub(in crate::world) fn throttle_unregister(&mut self, who: Member) {
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
        self.timer_set(now + wait, TimerKind::Throttle(who, dir == 1));
        true
    }

    /// `throttle_group_co_io_limits_intercept`: waits for its turn.
    fn throttle_intercept(&mut self, who: Member, write: bool, bytes: u64) -> Flow {
        let Some(index) = self.throttling.index_of(who) else { return Flow::Go };
        let dir = usize::from(write);
        let token = self.throttling.groups[index].next_token(who, dir, self.unlimited(who));
        let must_wait = self.throttle_must_wait(index, token, dir);
        let co = self.current();
        self.push(ThrottleFrame::ThrottleGo { who, write, bytes }.into());
        let member = self.throttling.groups[index].member(who);
        if must_wait || member.pending[dir] > 0 {
            member.pending[dir] += 1;
            member.queues[dir].push(co);
            self.push(ThrottleFrame::ThrottleWoken { who, write }.into());
            return Flow::Yield(Wait::Queue("its throttle group"));
        }
        Flow::Go
    }

    /// A request that waited goes on.
    fn throttle_woken(&mut self, who: Member, write: bool) -> Flow {
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].member(who).pending[usize::from(write)] -= 1;
        }
        Flow::Go
    }

    /// A request is carried out: it counts, and the next one has its turn.
    fn throttle_go(&mut self, who: Member, write: bool, bytes: u64) -> Flow {
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
    fn throttle_restart(&mut self, who: Member, write: bool) -> Flow {
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
            let co = self.co_create([ThrottleFrame::ThrottleRestart { who, write }.into()]);
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
                let co = self.co_create([ThrottleFrame::ThrottleRestart { who, write }.into()]);
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
    pub(in crate::world) fn throttle_config(&mut self, who: Member, limits: Limits) {
        let now = self.now;
        if let Some(index) = self.throttling.index_of(who) {
            self.throttling.groups[index].state.configure(limits, now);
            self.throttle_restart_member(who);
        }
    }

    /// A write that waits for its turn, and is passed on.
    pub(super) fn write_throttled(&mut self, req: Box<WriteReq>) -> Flow {
        self.seq([throttled(req.node, true, req.bytes), DriverFrame::PassWrite { req, shift: 0 }.into()])
    }
}
