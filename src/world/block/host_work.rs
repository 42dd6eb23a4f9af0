//! What the host does for the process, or refuses. Where the files are real ones, the world says what is to be done, its step ends, and it
//! goes on when it knows what came of it (`crate::host::HostOp`); the simulated host answers at once (`HostFiles::verdict`).

use crate::base::errno::{Errno, Ret};
use crate::host::HostOp;
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::aio::coroutine::Wait;
use crate::world::aio::device::{DeviceOp, DeviceRequest};
use crate::world::aio::queue::Ctx;
use crate::world::arena::ReqId;
use crate::world::block::create::AfterCreate;
use crate::world::block::driver::qcow2::create::TRUNCATE;
use crate::world::block::graph::Node;
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

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum HostWorkFrame {
    RawTruncated,
    RawCreate { path: Arc<str>, size: u64, made: bool, then: Box<crate::world::block::create::AfterCreate> },
}

impl HostWorkFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            HostWorkFrame::RawTruncated => w.raw_truncated(),
            HostWorkFrame::RawCreate { path, size, made, then } => w.raw_create(path, size, made, then),
        }
    }
}

impl World {
    /// Whether a real host has to do the work of a request before the process may see that it is done. Asks for it then.
    pub(in crate::world) fn host_works_first(&mut self, id: ReqId) -> bool {
        if !self.files.is_connected() || self.files.has_answer() {
            return false;
        }
        let Some(request) = self.aio.in_flight.iter().find(|request| request.id == id) else { return false };
        let node = self.graph.nodes.get(request.node).and_then(Node::file_driver);
        let (Some(file), Some(op)) = (node, op_of(request)) else { return false };
        let in_memory = match op {
            HostOp::Read(offset, bytes) => self.files.unread(&file.path, offset, bytes).is_empty(),
            HostOp::Flush => true,
            _ => false,
        };
        if !in_memory {
            let path = file.path.clone();
            self.files.ask(&path, op);
            // The frame stays, and counts when it comes again.
            self.steps -= 1;
        }
        !in_memory
    }

    /// Whether the host did what a request asks for.
    pub(super) fn host_verdict(&mut self, path: &str, request: &DeviceRequest) -> Ret {
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
        if made && i64::try_from(size).is_err() {
            // It is the worker thread that finds out.
            return self
                .seq([Frame::Sleep(TRUNCATE), Frame::Give(Box::new(Val::Done(Err(resize_failed(Errno::EINVAL)))))]);
        }
        let key = self.files.key(&path);
        let op = if made { HostOp::Truncate(size) } else { HostOp::Create };
        match self.host_does(&key, &op) {
            None => {
                self.push(HostWorkFrame::RawCreate { path, size, made, then }.into());
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
    fn raw_truncated(&mut self) -> Flow {
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
