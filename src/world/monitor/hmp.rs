//! `human-monitor-command` and its `qemu-io`: guest I/O through a backend (`block/monitor/block-hmp-cmds.c`, `qemu-io-cmds.c`,
//! `block/block-backend.c`).

use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::base::units::Nanos;
use crate::block::accounting::AcctType;
use crate::block::content::{Data, WriteTag};
use crate::block::qemu_io::{self, QemuIo, Read, Write, WriteData};
use crate::block::qemu_io_text as text;
use crate::qmp::hmp::{self, HmpLine};
use crate::world::World;
use crate::world::aio::{Cond, Wait};
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::driver::Driver;
use crate::world::block::driver::throttle::Member;
use crate::world::block::graph::perm;
use crate::world::block::io::{self, IoFlags};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use crate::world::watch::marks::Place;
use std::sync::Arc;

/// A request that a backend sends to its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlkRequest {
    /// `blk_co_preadv`
    Read {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_preadv` with `BDRV_REQ_PREFETCH`
    Prefetch {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_pwritev`
    Write {
        /// First byte.
        offset: u64,
        /// What to write; `None` with `ZERO_WRITE`.
        data: Option<Data>,
        /// Length.
        bytes: u64,
        /// Flags.
        flags: IoFlags,
    },
    /// `blk_co_pdiscard`
    Discard {
        /// First byte.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// `blk_co_flush`
    Flush,
}

impl BlkRequest {
    fn range(&self) -> (u64, u64) {
        match self {
            BlkRequest::Read { offset, bytes }
            | BlkRequest::Prefetch { offset, bytes }
            | BlkRequest::Discard { offset, bytes }
            | BlkRequest::Write { offset, bytes, .. } => (*offset, *bytes),
            BlkRequest::Flush => (0, 0),
        }
    }
}

impl World {
    /// `qmp_human_monitor_command`. Leaves `Val::Json`.
    pub(super) fn human_monitor_command(&mut self, line: &str) -> Flow {
        let give = |w: &mut World, text: &str| w.ret(Val::Json(Ok(Json::str(text))));
        match hmp::parse(line) {
            HmpLine::Blank => give(self, ""),
            HmpLine::Refused(refusal) => {
                self.console_raw(&refusal.stdout);
                give(self, &refusal.reply)
            }
            HmpLine::NotSimulated(name) => self.ret(Val::Json(Err(super::commands::not_simulated(&name)))),
            HmpLine::Other { name, args } => self.hmp_command(name, &args),
            HmpLine::QemuIo { qdev: true, device, command } => match self.blk_by_qdev_id(&device) {
                Ok(blk) => self.seq([Frame::QemuIo { blk, command: command.into() }]),
                Err(err) => give(self, &hmp::error_reply(&err.desc)),
            },
            HmpLine::QemuIo { device, command, .. } => {
                let command: Arc<str> = command.into();
                if let Some(blk) = self.graph.blk_by_name(&device) {
                    return self.seq([Frame::QemuIo { blk, command }]);
                }
                let Some(bs) = self.graph.find_node(&device) else {
                    let reply = hmp::error_reply(&hmp::no_such_node(&device));
                    return give(self, &reply);
                };
                let blk = self.blk_new("".into(), 0, perm::ALL);
                self.seq([
                    Frame::BlkInsertBs(blk, bs),
                    Frame::QemuIoAttached { blk, command },
                    Frame::KeepOver(Box::new(Frame::BlkUnref(blk))),
                ])
            }
        }
    }

    /// `hmp_qemu_io` by node name, once the temporary backend is attached.
    pub(in crate::world) fn qemu_io_attached(&mut self, blk: BackendId, command: Arc<str>) -> Flow {
        match self.take_done() {
            Ok(()) => self.seq([Frame::QemuIo { blk, command }]),
            Err(err) => {
                let reply = hmp::error_reply(&err.desc);
                self.ret(Val::Json(Ok(reply.into())))
            }
        }
    }

    /// `qemuio_command`
    pub(in crate::world) fn qemu_io(&mut self, blk: BackendId, line: &str) -> Flow {
        let nothing = |w: &mut World| w.ret(Val::Json(Ok(Json::str(""))));
        let Some(command) = qemu_io::parse(line) else { return nothing(self) };
        let mut need = 0;
        if command.perms.write {
            need |= perm::WRITE;
        }
        if command.perms.resize {
            need |= perm::RESIZE;
        }
        let backend = &self.graph.backends[blk];
        let (has, shared) = (backend.perm, backend.shared);
        if has & need != need
            && let Err(err) = self.blk_set_perm(blk, has | need, shared)
        {
            return self.ret(Val::Json(Ok(hmp::report_reply(&err.desc).into())));
        }
        match command.what {
            Err(output) => {
                self.console_raw(&output.stdout);
                if let Some(kind) = output.invalid {
                    let now = self.now;
                    Arc::make_mut(&mut self.graph.backends[blk].stats).invalid(kind, now);
                }
                if !output.stderr.is_empty() {
                    self.out.push_back(super::Output::Stderr(output.stderr.into()));
                }
                let reply = output.report.map(|r| hmp::report_reply(&r)).unwrap_or_default();
                self.ret(Val::Json(Ok(reply.into())))
            }
            Ok(QemuIo::NotSimulated(name)) => {
                let err = super::commands::not_simulated(&format!("qemu-io {name}"));
                self.ret(Val::Json(Err(err)))
            }
            Ok(io) => {
                self.stack.push(Frame::Give(Box::new(Val::Json(Ok(Json::str(""))))));
                self.qemu_io_run(blk, io)
            }
        }
    }

    /// A new writer: whoever wants to know who wrote a range looks it up by its tag.
    fn new_writer(&mut self, what: String) -> WriteTag {
        self.writers.push(what.into());
        WriteTag(u32::try_from(self.writers.len()).expect("few writers"))
    }

    fn qemu_io_run(&mut self, blk: BackendId, io: QemuIo) -> Flow {
        let start = self.now;
        match io {
            QemuIo::Read(read) => {
                let request = BlkRequest::Read { offset: read.offset, bytes: read.bytes };
                let done = Frame::QemuIoReadDone { blk, read: Box::new(read), start };
                self.qemu_io_submit(blk, request, done, read.submit == qemu_io::Submit::Aio)
            }
            QemuIo::Write(write) => {
                let request = self.qemu_io_write(blk, &write);
                let done = Frame::QemuIoWriteDone { blk, write: Box::new(write), start };
                self.qemu_io_submit(blk, request, done, write.submit == qemu_io::Submit::Aio)
            }
            QemuIo::Discard { offset, bytes, report } => {
                let request = BlkRequest::Discard { offset, bytes };
                let done = Frame::QemuIoDiscardDone { offset, bytes, report, start };
                self.qemu_io_submit(blk, request, done, false)
            }
            QemuIo::Flush => self.qemu_io_submit(blk, BlkRequest::Flush, Frame::Give(Box::new(Val::None)), false),
            QemuIo::AioFlush => self.seq([Frame::DrainAll, Frame::QemuIoFlushed { blk, start }]),
            QemuIo::Truncate { offset, .. } => {
                self.seq([Frame::RunCo(Box::new(Frame::BlkTruncate { blk, size: offset })), Frame::QemuIoTruncated])
            }
            QemuIo::Length => {
                let length = self.graph.available(blk).map(|bs| self.bdrv_getlength(bs)).ok_or(Errno::ENOMEDIUM);
                self.console_raw(&text::length(length));
                Flow::Go
            }
            QemuIo::Break { event, tag } => self.qemu_io_break(blk, &event, &tag),
            QemuIo::RemoveBreak { tag } => self.qemu_io_remove_break(blk, &tag),
            QemuIo::Resume { tag } => self.qemu_io_resume(blk, &tag),
            QemuIo::WaitBreak { tag } => self.seq([Frame::Poll(Cond::Break(self.debug_node(blk), tag))]),
            QemuIo::Sleep { milliseconds } => {
                let ns = milliseconds * crate::base::units::MILLIS;
                self.run_co(Frame::Sleep(ns))
            }
            QemuIo::Map => self.qemu_io_map(blk),
            QemuIo::Alloc { offset, bytes } => self.qemu_io_alloc(blk, offset, bytes),
            QemuIo::Info => self.qemu_io_info(blk),
            QemuIo::NotSimulated(name) => {
                self.stack.pop();
                self.ret(Val::Json(Err(super::commands::not_simulated(&format!("qemu-io {name}")))))
            }
        }
    }

    fn qemu_io_submit(&mut self, blk: BackendId, request: BlkRequest, done: Frame, background: bool) -> Flow {
        let request = Frame::BlkCo { blk, request: Box::new(request) };
        if !background {
            return self.seq([Frame::RunCo(Box::new(request)), done]);
        }
        let co = self.co_create([done, request]);
        self.seq([Frame::Enter(co)])
    }

    fn qemu_io_write(&mut self, blk: BackendId, write: &Write) -> BlkRequest {
        let name = self.graph.backends[blk].name.clone();
        let (offset, bytes) = (write.offset, write.bytes);
        let mut flags = if write.fua { IoFlags::FUA } else { IoFlags::NONE };
        let pattern = match write.data {
            WriteData::Pattern(byte) => byte,
            WriteData::Compressed(byte) => {
                flags |= IoFlags::COMPRESSED;
                byte
            }
            WriteData::Zeroes { unmap, no_fallback } => {
                flags |= IoFlags::ZERO_WRITE;
                if unmap {
                    flags |= IoFlags::MAY_UNMAP;
                }
                if no_fallback {
                    flags |= IoFlags::NO_FALLBACK;
                }
                return BlkRequest::Write { offset, data: None, bytes, flags };
            }
        };
        let tag = self.new_writer(format!("guest write of {pattern:#04x} at {offset}+{bytes} through '{name}'"));
        BlkRequest::Write { offset, data: Some(Data::pattern(pattern, bytes, tag)), bytes, flags }
    }

    /// `blk_co_do_*`: counts the request, waits for the end of a drained section, checks the range.
    pub(in crate::world) fn blk_co(&mut self, blk: BackendId, request: Box<BlkRequest>) -> Flow {
        let co = self.current();
        let backend = &mut self.graph.backends[blk];
        if backend.quiesce_counter > 0 && !backend.disable_request_queuing {
            backend.queued_requests.push(co);
            self.reach(Place::DrainedRequestWaits);
            self.stack.push(Frame::BlkCo { blk, request });
            return Flow::Yield(Wait::Queue("the end of a drained section"));
        }
        backend.in_flight += 1;
        let write_through = !backend.write_cache;
        let beyond_eof = backend.allow_write_beyond_eof;
        let is_guest = !beyond_eof && !backend.disable_request_queuing;
        if is_guest {
            self.see_guest(blk, &request);
        }
        let throttled = self.throttling.group_of(Member::Backend(blk)).is_some();
        self.stack.push(Frame::BlkCoDone(blk));
        let Some(node) = self.graph.available(blk) else { return self.ret(Val::err(Errno::ENOMEDIUM)) };
        let (offset, bytes) = request.range();
        let length = self.bdrv_getlength(node);
        let checked = !beyond_eof && !matches!(*request, BlkRequest::Flush);
        if checked && (offset > length || length - offset < bytes) {
            return self.ret(Val::err(Errno::EIO));
        }
        let frame = match *request {
            BlkRequest::Read { offset, bytes } => Frame::Preadv { node, offset, bytes, flags: IoFlags::NONE },
            BlkRequest::Prefetch { offset, bytes } => Frame::Preadv { node, offset, bytes, flags: IoFlags::PREFETCH },
            BlkRequest::Discard { offset, bytes } => Frame::Pdiscard { node, offset, bytes },
            BlkRequest::Flush => Frame::BdrvCoFlush(node),
            BlkRequest::Write { offset, data, bytes, mut flags } => {
                if write_through {
                    flags |= IoFlags::FUA;
                }
                Frame::Pwritev(match data {
                    Some(data) => io::write(node, offset, data, flags),
                    None => io::write_zeroes(node, offset, bytes, flags),
                })
            }
        };
        let limited = match &frame {
            Frame::Preadv { .. } => Some(false),
            Frame::Pwritev(_) => Some(true),
            _ => None,
        };
        match limited.filter(|_| throttled) {
            Some(write) => {
                let wait = Frame::ThrottleWait { who: Member::Backend(blk), write, bytes };
                self.seq([Frame::Rdlock, wait, frame, Frame::Rdunlock])
            }
            None => self.seq([Frame::Rdlock, frame, Frame::Rdunlock]),
        }
    }

    /// `blk_dec_in_flight`
    pub(in crate::world) fn blk_co_done(&mut self, blk: BackendId) -> Flow {
        self.graph.backends[blk].in_flight -= 1;
        Flow::Go
    }

    /// `info_f`. What is specific to the format is printed on the monitor, and so is the reply.
    fn qemu_io_info(&mut self, blk: BackendId) -> Flow {
        let Some(node) = self.graph.blk_bs(blk) else { return Flow::Go };
        let driver = self.graph.nodes[node].drv();
        let name = driver.format_name();
        let protocol = driver.has_protocol_name().then_some(name);
        // `bdrv_get_info`: filters and raw pass it on.
        let mut at = node;
        while self.graph.nodes[at].drv().has_raw_status() {
            at = self.below(at);
        }
        let sizes = match self.graph.nodes[at].drv() {
            Driver::Qcow2(state) => Some((state.q.cluster_size(), state.q.vm_state_offset())),
            Driver::File(_) => Some((0, 0)),
            _ => None,
        };
        let specific = match self.graph.nodes[node].drv() {
            Driver::Qcow2(state) => {
                let q = &state.q;
                let mut lines = vec![format!("compat: {}", if q.version() == 2 { "0.10" } else { "1.1" })];
                lines.push(format!("compression type: {}", q.compression_type()));
                if q.version() > 2 {
                    lines.push(format!("lazy refcounts: {}", q.lazy_refcounts()));
                }
                lines.push(format!("refcount bits: {}", q.refcount_bits()));
                if q.version() > 2 {
                    lines.extend([format!("corrupt: {}", q.is_corrupt()), "extended l2: false".to_owned()]);
                }
                lines
            }
            _ => Vec::new(),
        };
        self.console_raw(&text::info(name, protocol, sizes));
        let lines: String = specific.iter().map(|line| format!("    {line}\r\n")).collect();
        if !lines.is_empty() {
            self.stack.pop();
            return self.ret(Val::Json(Ok(Json::str(&format!("Format specific information:\r\n{lines}")))));
        }
        Flow::Go
    }

    /// `block_acct_done`, `block_acct_failed`
    pub(in crate::world) fn account(
        &mut self,
        blk: BackendId,
        kind: AcctType,
        bytes: u64,
        start: Nanos,
        failed: bool,
    ) -> Flow {
        let now = self.now;
        if let Some(backend) = self.graph.backends.get_mut(blk) {
            Arc::make_mut(&mut backend.stats).done(kind, bytes, start, now, failed);
        }
        Flow::Go
    }

    /// What `read` prints.
    pub(in crate::world) fn qemu_io_read_done(&mut self, blk: BackendId, read: &Read, start: Nanos) -> Flow {
        let result = self.take_data();
        if read.submit == qemu_io::Submit::Aio {
            let _ = self.account(blk, AcctType::Read, read.bytes, start, result.is_err());
        }
        let line = match result {
            Err(errno) => read.failed(errno),
            // The bytes are needed only to verify or to show them.
            Ok(data) if read.verify.is_some() || read.dump => read.succeeded(&data.to_bytes(), self.now - start),
            Ok(_) => read.succeeded(&[], self.now - start),
        };
        self.console_raw(&line);
        Flow::Go
    }

    /// What `write` prints.
    pub(in crate::world) fn qemu_io_write_done(&mut self, blk: BackendId, write: &Write, start: Nanos) -> Flow {
        let result = self.take_ret();
        // QEMU does not note the start of `aio_write -z`, and counts nothing.
        if write.submit == qemu_io::Submit::Aio && !matches!(write.data, WriteData::Zeroes { .. }) {
            let _ = self.account(blk, AcctType::Write, write.bytes, start, result.is_err());
        }
        let line = match result {
            Err(errno) => write.failed(errno),
            Ok(()) => write.succeeded(self.now - start),
        };
        self.console_raw(&line);
        Flow::Go
    }

    /// What `discard` prints.
    pub(in crate::world) fn qemu_io_discard_done(&mut self, done: text::Done, report: qemu_io::Report) -> Flow {
        let line = match self.take_ret() {
            Err(errno) => text::discard_failed(errno),
            Ok(()) => text::report("discard", report, done),
        };
        self.console_raw(&line);
        Flow::Go
    }

    /// What `truncate` prints.
    pub(in crate::world) fn qemu_io_truncated(&mut self) -> Flow {
        match self.take_done() {
            Ok(()) => Flow::Go,
            Err(err) => self.qemu_io_reports(&err.desc),
        }
    }

    /// `error_report` of a command of qemu-io: the reply, instead of none.
    pub(super) fn qemu_io_reports(&mut self, message: &str) -> Flow {
        self.stack.pop();
        self.ret(Val::Json(Ok(Json::str(&hmp::report_reply(message)))))
    }

    /// `bdrv_debug_breakpoint`: the first blkdebug down the primary children.
    fn debug_node(&self, blk: BackendId) -> Option<NodeId> {
        let mut node = self.graph.blk_bs(blk)?;
        loop {
            if let Driver::Blkdebug(_) = self.graph.nodes[node].drv() {
                return Some(node);
            }
            node = self.graph.bs(self.graph.nodes[node].file?);
        }
    }

    fn qemu_io_break(&mut self, blk: BackendId, event: &str, tag: &str) -> Flow {
        let result: Ret = match self.debug_node(blk) {
            None => Err(Errno::ENOTSUP),
            Some(node) => self.blkdebug_mut(node).expect("just found").engine.set_break(event, tag),
        };
        if let Err(errno) = result {
            self.console_raw(&text::break_failed(errno));
        }
        Flow::Go
    }

    fn qemu_io_remove_break(&mut self, blk: BackendId, tag: &str) -> Flow {
        let Some(node) = self.debug_node(blk) else {
            self.console_raw(&text::remove_break_failed(tag, Errno::ENOTSUP));
            return Flow::Go;
        };
        let (resumed, result) = self.blkdebug_mut(node).expect("just found").engine.remove_break(tag);
        for one in resumed {
            self.resumed(&one, tag);
        }
        if let Err(errno) = result {
            self.console_raw(&text::remove_break_failed(tag, errno));
        }
        Flow::Go
    }

    fn qemu_io_resume(&mut self, blk: BackendId, tag: &str) -> Flow {
        let result = match self.debug_node(blk) {
            None => Err(Errno::ENOTSUP),
            Some(node) => self.blkdebug_mut(node).expect("just found").engine.resume(tag),
        };
        match result {
            Ok(one) => self.resumed(&one, tag),
            Err(errno) => self.console_raw(&text::resume_failed(errno)),
        }
        Flow::Go
    }

    fn resumed(&mut self, one: &crate::block::blkdebug::Resumed, tag: &str) {
        self.console(&crate::block::blkdebug::resuming_text(tag));
        if one.runs {
            self.aio_co_wake(crate::world::arena::CoId(one.request));
        }
    }
}
