//! `human-monitor-command` and its `qemu-io`: guest I/O through a backend (`block/monitor/block-hmp-cmds.c`, `qemu-io-cmds.c`,
//! `block/block-backend.c`).

use crate::base::Json;
use crate::base::errno::{Errno, Ret};
use crate::base::time::{Instant, Rebase, Shift, Span, timeless};
use crate::block::accounting::AcctType;
use crate::block::content::{Data, WriteTag};
use crate::block::qemu_io::Report;
use crate::block::qemu_io::text;
use crate::block::qemu_io::text::Done;
use crate::block::qemu_io::{self, QemuIo, Read, Write, WriteData};
use crate::qmp::hmp;
use crate::world::World;
use crate::world::aio::step::Cond;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::drain::DrainFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum QemuIoFrame {
    QemuIo { blk: BackendId, command: Arc<str> },
    QemuIoAttached { blk: BackendId, command: Arc<str> },
    QemuIoTruncated,
    QemuIoReopen { blk: BackendId, reopen: Box<qemu_io::Reopen> },
    QemuIoReopened { blk: BackendId, writethrough: bool },
}

impl QemuIoFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            QemuIoFrame::QemuIo { blk, command } => w.qemu_io(blk, &command),
            QemuIoFrame::QemuIoAttached { blk, command } => w.qemu_io_attached(blk, command),
            QemuIoFrame::QemuIoTruncated => w.qemu_io_truncated(),
            QemuIoFrame::QemuIoReopen { blk, reopen } => w.qemu_io_reopen_drained(blk, &reopen),
            QemuIoFrame::QemuIoReopened { blk, writethrough } => w.qemu_io_reopened(blk, writethrough),
        }
    }
}

/// The ends of requests that say how long they took.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum MeasuredFrame {
    QemuIoReadDone { blk: BackendId, read: Box<Read>, start: Instant },
    QemuIoWriteDone { blk: BackendId, write: Box<Write>, start: Instant },
    QemuIoDiscardDone { offset: u64, bytes: u64, report: Report, start: Instant },
    QemuIoFlushed { blk: BackendId, start: Instant },
}

impl Rebase for MeasuredFrame {
    fn has_instants(&self) -> bool {
        true
    }

    fn rebase(&mut self, shift: Shift) {
        let start = match self {
            MeasuredFrame::QemuIoReadDone { blk, read, start } => {
                timeless(&(blk, read));
                start
            }
            MeasuredFrame::QemuIoWriteDone { blk, write, start } => {
                timeless(&(blk, write));
                start
            }
            MeasuredFrame::QemuIoDiscardDone { offset, bytes, report, start } => {
                timeless(&(offset, bytes, report));
                start
            }
            MeasuredFrame::QemuIoFlushed { blk, start } => {
                timeless(blk);
                start
            }
        };
        // How long it took is printed and nothing else. Measured across a change of the clock, no two states would be equal beside a
        // job that wakes up now and then.
        *start = shift.to;
    }
}

impl MeasuredFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            MeasuredFrame::QemuIoReadDone { blk, read, start } => w.qemu_io_read_done(blk, &read, start),
            MeasuredFrame::QemuIoWriteDone { blk, write, start } => w.qemu_io_write_done(blk, &write, start),
            MeasuredFrame::QemuIoDiscardDone { offset, bytes, report, start } => {
                let elapsed = w.now - start;
                w.qemu_io_discard_done(Done { offset, bytes, elapsed }, report)
            }
            MeasuredFrame::QemuIoFlushed { blk, start } => w.account(blk, AcctType::Flush, 0, start, false),
        }
    }
}

impl World {
    /// `hmp_qemu_io` by node name, once the temporary backend is attached.
    fn qemu_io_attached(&mut self, blk: BackendId, command: Arc<str>) -> Flow {
        match self.take_done() {
            Ok(()) => self.seq([QemuIoFrame::QemuIo { blk, command }.into()]),
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
                    self.out.push_back(crate::world::out::Output::Stderr(output.stderr.into()));
                }
                let reply = output.report.map(|r| hmp::report_reply(&r)).unwrap_or_default();
                self.ret(Val::Json(Ok(reply.into())))
            }
            Ok(QemuIo::NotSimulated(name)) => {
                let err = crate::world::block::open::unsupported::not_simulated(&format!("qemu-io {name}"));
                self.ret(Val::Json(Err(err)))
            }
            Ok(io) => {
                self.push(Frame::Give(Box::new(Val::Json(Ok(Json::str(""))))));
                self.qemu_io_run(blk, io)
            }
        }
    }

    /// A new writer: whoever wants to know who wrote a range looks it up by its tag.
    pub(in crate::world) fn new_writer(&mut self, what: String) -> WriteTag {
        self.writers.push(what.into());
        WriteTag(u32::try_from(self.writers.len()).expect("few writers"))
    }

    fn qemu_io_run(&mut self, blk: BackendId, io: QemuIo) -> Flow {
        let start = self.now;
        match io {
            QemuIo::Read(read) => {
                let request = BlkRequest::Read { offset: read.offset, bytes: read.bytes };
                let done = MeasuredFrame::QemuIoReadDone { blk, read: Box::new(read), start }.into();
                self.qemu_io_submit(blk, request, done, read.submit == qemu_io::Submit::Aio)
            }
            QemuIo::Write(write) => {
                let request = self.qemu_io_write(blk, &write);
                let done = MeasuredFrame::QemuIoWriteDone { blk, write: Box::new(write), start }.into();
                self.qemu_io_submit(blk, request, done, write.submit == qemu_io::Submit::Aio)
            }
            QemuIo::Discard { offset, bytes, report } => {
                let request = BlkRequest::Discard { offset, bytes };
                let done = MeasuredFrame::QemuIoDiscardDone { offset, bytes, report, start }.into();
                self.qemu_io_submit(blk, request, done, false)
            }
            QemuIo::Flush => self.qemu_io_submit(blk, BlkRequest::Flush, Frame::Give(Box::new(Val::None)), false),
            QemuIo::AioFlush => {
                self.seq([DrainFrame::DrainAll.into(), MeasuredFrame::QemuIoFlushed { blk, start }.into()])
            }
            QemuIo::Truncate { offset, .. } => self.seq([
                Frame::RunCo(Box::new(BackendFrame::BlkTruncate { blk, size: offset }.into())),
                QemuIoFrame::QemuIoTruncated.into(),
            ]),
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
                let span = Span::from_millis(milliseconds);
                self.run_co(Frame::Sleep(span))
            }
            QemuIo::Reopen(reopen) => self.qemu_io_reopen(blk, reopen),
            QemuIo::Map => self.qemu_io_map(blk),
            QemuIo::Alloc { offset, bytes } => self.qemu_io_alloc(blk, offset, bytes),
            QemuIo::Info => self.qemu_io_info(blk),
            QemuIo::NotSimulated(name) => self.give_instead(Val::Json(Err(
                crate::world::block::open::unsupported::not_simulated(&format!("qemu-io {name}")),
            ))),
        }
    }

    fn qemu_io_submit(&mut self, blk: BackendId, request: BlkRequest, done: Frame, background: bool) -> Flow {
        let request = BackendFrame::BlkCo { blk, request: Box::new(request) }.into();
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

    /// `info_f`. What is specific to the format is printed on the monitor, and so is the reply.
    fn qemu_io_info(&mut self, blk: BackendId) -> Flow {
        let Some(node) = self.graph.blk_bs(blk) else { return Flow::Go };
        let driver = self.graph.nodes[node].drv();
        let name = driver.format_name();
        let protocol = driver.has_protocol_name().then_some(name);
        let sizes = self.bdrv_get_info(node).map(|info| (info.cluster_size, info.vm_state_offset));
        let specific = self.bdrv_get_specific_info(node).and_then(|info| info.get("data").cloned());
        self.console_raw(&text::info(name, protocol, sizes));
        let lines = specific.map(|data| specific_dump(&data)).unwrap_or_default();
        if !lines.is_empty() {
            return self.give_instead(Val::Json(Ok(Json::str(&format!("Format specific information:\r\n{lines}")))));
        }
        Flow::Go
    }

    /// What `read` prints.
    fn qemu_io_read_done(&mut self, blk: BackendId, read: &Read, start: Instant) -> Flow {
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
    fn qemu_io_write_done(&mut self, blk: BackendId, write: &Write, start: Instant) -> Flow {
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
    fn qemu_io_discard_done(&mut self, done: text::Done, report: qemu_io::Report) -> Flow {
        let line = match self.take_ret() {
            Err(errno) => text::discard_failed(errno),
            Ok(()) => text::report("discard", report, done),
        };
        self.console_raw(&line);
        Flow::Go
    }

    /// What `truncate` prints.
    fn qemu_io_truncated(&mut self) -> Flow {
        match self.take_done() {
            Ok(()) => Flow::Go,
            Err(err) => self.qemu_io_reports(&err.desc),
        }
    }

    /// `error_report` of a command of qemu-io: the reply, instead of none.
    pub(super) fn qemu_io_reports(&mut self, message: &str) -> Flow {
        self.give_instead(Val::Json(Ok(Json::str(&hmp::report_reply(message)))))
    }

    /// `bdrv_debug_breakpoint`: the first blkdebug down the primary children.
    fn debug_node(&self, blk: BackendId) -> Option<NodeId> {
        let mut node = self.graph.blk_bs(blk)?;
        loop {
            if self.graph.nodes[node].drv().row().has_debug_breakpoint {
                return Some(node);
            }
            node = self.graph.bs(self.graph.primary_child(node)?);
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

/// `bdrv_image_info_specific_dump`: members in the order of QEMU's hash table; a list of bitmaps is not shown.
fn specific_dump(data: &Json) -> String {
    const ORDER: [&str; 6] =
        ["compat", "compression-type", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2"];
    let shown = ORDER.iter().filter_map(|key| {
        let text = match data.get(key)? {
            Json::Str(text) => text.to_string(),
            Json::Bool(on) => on.to_string(),
            number => number.as_u64()?.to_string(),
        };
        Some(format!("    {}: {text}\r\n", key.replace('-', " ")))
    });
    shown.collect()
}
