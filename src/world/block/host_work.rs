//! What the host does for the process, or refuses. Where the files are real ones, the world says what is to be done, its step ends, and it
//! goes on when it knows what came of it (`crate::host::HostOp`); the simulated host answers at once (`HostFiles::verdict`).

use super::create::AfterCreate;
use super::driver::Driver;
use crate::base::errno::{Errno, Ret};
use crate::host::HostOp;
use crate::qmp::error::QmpError;
use crate::trace::{Later, Level, Phase, RecordKind};
use crate::world::World;
use crate::world::aio::{Ctx, DeviceOp, DeviceRequest, Wait};
use crate::world::arena::{NodeId, ReqId};
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// What a request does to its file; nothing for a null device.
fn op_of(request: &DeviceRequest) -> Option<HostOp> {
    let (offset, bytes) = (request.offset, request.bytes);
    Some(match &request.op {
        DeviceOp::Read => HostOp::Read(offset, bytes),
        DeviceOp::Write(data) => HostOp::Write(offset, data.clone()),
        DeviceOp::Copy { from, at } => HostOp::Copy { from: from.clone(), at: *at, offset, bytes },
        DeviceOp::Zero { unmap } => HostOp::Zero { offset, bytes, unmap: *unmap },
        DeviceOp::Discard => HostOp::Punch(offset, bytes),
        DeviceOp::Flush => HostOp::Flush,
        DeviceOp::Truncate => HostOp::Truncate(offset),
        DeviceOp::Nothing => return None,
    })
}

impl World {
    /// Sends a request to the device below a protocol node; the running coroutine then yields with the wait returned.
    pub fn device_submit(&mut self, node: NodeId, op: DeviceOp, offset: u64, bytes: u64) -> Flow {
        let id = ReqId(super::io::lowest_free(self.aio.in_flight.iter().map(|r| r.id.0)));
        let co = self.current();
        let request = DeviceRequest { id, node, op, offset, bytes, sent: self.now, due: None, co, worked: None };
        if self.trace.wants(Level::Io) {
            self.trace_device(&request, Phase::Submit);
            self.trace.keep_cause(Later::Device(id.0));
        }
        self.aio.in_flight.push(request);
        Flow::Yield(Wait::Device(id))
    }

    /// What the host does for a request, when it is done.
    pub(in crate::world) fn device_work(&mut self, request: &DeviceRequest) -> Val {
        let Some(node) = self.graph.nodes.get(request.node) else { return Val::err(Errno::EIO) };
        let Driver::File(file) = node.drv() else { return Val::Ret(Ok(())) };
        let path = file.path.clone();
        if self.trace.wants(Level::Io) {
            self.trace_device(request, Phase::Complete(None));
        }
        if let Err(errno) = self.host_verdict(&path, request) {
            return Val::err(errno);
        }
        match &request.op {
            DeviceOp::Read => Val::Data(Ok(self.files.read_in(&path, request.offset, request.bytes))),
            DeviceOp::Write(data) => {
                self.files.pwrite(&path, request.offset, data);
                Val::Ret(Ok(()))
            }
            DeviceOp::Copy { from, at } => {
                Val::Ret(self.files.copy_range(from, *at, &path, request.offset, request.bytes))
            }
            DeviceOp::Zero { .. } => {
                self.files.zero(&path, request.offset, request.bytes);
                Val::Ret(Ok(()))
            }
            DeviceOp::Discard => {
                self.files.punch(&path, request.offset, request.bytes);
                if let Some(Driver::File(file)) = self.graph.nodes[request.node].driver.as_mut() {
                    file.discards = (file.discards.0 + 1, file.discards.1 + request.bytes);
                }
                Val::Ret(Ok(()))
            }
            DeviceOp::Truncate => {
                self.files.truncate(&path, request.offset);
                Val::Ret(Ok(()))
            }
            DeviceOp::Flush | DeviceOp::Nothing => Val::Ret(Ok(())),
        }
    }

    /// Notes a request to a file, where it begins and where it ends.
    pub(in crate::world) fn trace_device(&mut self, request: &DeviceRequest, phase: Phase) {
        let Some(node) = self.graph.nodes.get(request.node).filter(|node| matches!(node.drv(), Driver::File(_))) else {
            return;
        };
        let node = node.node_name.clone();
        let op = match request.op {
            DeviceOp::Read => "read",
            DeviceOp::Write(_) => "write",
            DeviceOp::Copy { .. } => "copy-range",
            DeviceOp::Zero { .. } => "write-zeroes",
            DeviceOp::Discard => "discard",
            DeviceOp::Flush => "flush",
            DeviceOp::Truncate | DeviceOp::Nothing => "truncate",
        };
        let (id, offset, bytes) = (u64::from(request.id.0), request.offset, request.bytes);
        let who: Arc<str> = format!("{:?}", request.co).into();
        let kind = || RecordKind::Request { id, node, op, offset, bytes, who, phase };
        self.trace.emit(Level::Io, self.now, kind);
    }

    /// Whether a real host has to do the work of a request before the process may see that it is done. Asks for it then.
    pub(in crate::world) fn host_works_first(&mut self, id: ReqId) -> bool {
        if !self.files.is_connected() || self.files.has_answer() {
            return false;
        }
        let Some(request) = self.aio.in_flight.iter().find(|request| request.id == id) else { return false };
        let node = self.graph.nodes.get(request.node).and_then(|node| node.driver.as_ref());
        let (Some(Driver::File(file)), Some(op)) = (node, op_of(request)) else { return false };
        let in_memory = match op {
            HostOp::Read(offset, bytes) => self.files.unread(&file.path, offset, bytes).is_empty(),
            HostOp::Flush => true,
            _ => false,
        };
        if !in_memory {
            let path = file.path.clone();
            self.files.ask(&path, op);
            // The frame comes again, and counts then.
            self.stack.push(Frame::Complete(id));
            self.steps -= 1;
        }
        !in_memory
    }

    /// Whether the host did what a request asks for.
    pub(in crate::world) fn host_verdict(&mut self, path: &str, request: &DeviceRequest) -> Ret {
        if self.files.is_connected() {
            return self.files.take_answer().unwrap_or(Ok(()));
        }
        match op_of(request).filter(|_| self.files.has_rules()) {
            Some(op) => self.files.verdict(path, &op),
            None => Ok(()),
        }
    }

    /// The coroutine that waits for the host goes on, if it knows enough. Whether there is more to wait for.
    pub(in crate::world) fn host_answers(&mut self) -> bool {
        if self.files.has_answer()
            && let Some(co) = self.aio.host_waiter.take()
        {
            self.co_enter(co, Ctx::Main);
        }
        self.files.waits()
    }

    /// Does something to a file, for which a real host has to be asked first: then there is no answer yet.
    fn host_does(&mut self, path: &Arc<str>, op: &HostOp) -> Option<Ret> {
        if !self.files.is_connected() {
            return Some(self.files.verdict(path, op));
        }
        let answer = self.files.take_answer();
        if answer.is_none() {
            self.files.ask(path, op.clone());
        }
        answer
    }

    /// `raw_co_create`: first empties the file or makes it (`made`), then sets its length. Leaves `Val::Done`, or goes on to what comes after.
    pub(in crate::world) fn raw_create(
        &mut self,
        path: Arc<str>,
        size: u64,
        made: bool,
        then: Box<AfterCreate>,
    ) -> Flow {
        let key = self.files.key(&path);
        let op = if made { HostOp::Truncate(size) } else { HostOp::Create };
        match self.host_does(&key, &op) {
            None => {
                self.stack.push(Frame::RawCreate { path, size, made, then });
                match self.aio.current {
                    None => Flow::Go,
                    Some(co) => {
                        self.aio.host_waiter = Some(co);
                        Flow::Yield(Wait::Host)
                    }
                }
            }
            Some(Err(errno)) if made && errno == Errno::EFBIG => match then.format() {
                Some(format) => {
                    let text = too_large(format);
                    self.ret(Val::Done(Err(QmpError::generic(text))))
                }
                None => self.ret(Val::Done(Err(resize_failed(errno)))),
            },
            Some(Err(errno)) if made => self.ret(Val::Done(Err(resize_failed(errno)))),
            Some(Err(errno)) => {
                self.ret(Val::Done(Err(QmpError::generic(format!("Could not create '{path}': {errno}")))))
            }
            Some(Ok(())) if made => {
                self.files.truncate(&key, size);
                self.raw_created(path, then)
            }
            Some(Ok(())) => {
                self.files.create_sparse(&key, 0);
                self.raw_create(path, size, true, then)
            }
        }
    }

    /// `raw_regular_truncate`, when the worker thread has done its work. Leaves `Val::Done`.
    pub(in crate::world) fn raw_truncated(&mut self) -> Flow {
        let done = self.take_ret().map_err(resize_failed);
        self.ret(Val::Done(done))
    }
}

/// What `bdrv_img_create` says where making an image gives `EFBIG`.
pub(in crate::world) fn too_large(format: &str) -> String {
    let hint = if format == "qcow2" { " (try using a larger cluster size)" } else { "" };
    format!("The image size is too large for file format '{format}'{hint}")
}

/// What `handle_aiocb_truncate` says.
fn resize_failed(errno: Errno) -> QmpError {
    QmpError::generic(format!("Could not resize file: {errno}")).with_errno(errno)
}
