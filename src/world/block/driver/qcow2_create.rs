//! Formatting: `qcow2_co_create` over an open node (`block/qcow2.c`), with the backends through which it does so.
//!
//! It is work like any other. Bystanders see each change of the graph, and its requests wait where all is drained.

use crate::block::content::Data;
use crate::block::qcow2::{CreateOptions, CreateStep, Op};
use crate::qmp::error::QmpError;
use crate::world::World;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::graph::{OpenFlags, perm};
use crate::world::block::io::IoFlags;
use crate::world::block::open::spec::{DriverSpec, OpenSpec};
use crate::world::frame::{Flow, Frame};
use crate::world::monitor::hmp::BlkRequest;
use crate::world::value::Val;
use std::sync::Arc;

/// An image that is being formatted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Formatting {
    /// What the image will be in.
    file: NodeId,
    /// The backend of the moment.
    blk: Option<BackendId>,
    /// How.
    options: CreateOptions,
}

/// What was done last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FormatStage {
    /// A backend for the file came.
    Attached,
    /// The header was written through it.
    HeaderWritten,
    /// A refcount table and block were.
    TableWritten,
    /// It went, and one that opened the image came.
    Opened,
    /// The image counts its own clusters.
    Counted,
    /// It has its size.
    Resized,
    /// It knows its backing file.
    BackingSet,
    /// It was closed, and opened once more to be flushed.
    Reopened,
}

impl World {
    /// `qcow2_co_create`, but for the reference to `file` that it takes. Runs in a coroutine. Leaves `Val::Done`.
    pub(in crate::world) fn qcow2_format(&mut self, file: NodeId, options: Box<CreateOptions>) -> Flow {
        if let Err(fault) = options.check() {
            return self.ret(Val::Done(Err(QmpError::generic(fault.to_string()))));
        }
        let (perm, beyond_eof) = (perm::WRITE | perm::RESIZE, true);
        let attach = Frame::BlkNewWithBs { bs: file, perm, beyond_eof };
        let f = Box::new(Formatting { file, blk: None, options: *options });
        self.seq([Frame::OnMain(Box::new(attach)), Frame::Formatting(f, FormatStage::Attached)])
    }

    /// One stage of formatting.
    pub(in crate::world) fn formatting(&mut self, mut f: Box<Formatting>, stage: FormatStage) -> Flow {
        if let Err(err) = self.format_result(&mut f, stage) {
            return self.format_end(&f, Err(err));
        }
        match stage {
            FormatStage::Attached => {
                let header = f.options.first_header();
                self.format_write(f, 0, header, FormatStage::HeaderWritten)
            }
            FormatStage::HeaderWritten => {
                let (at, table) = f.options.first_refcounts();
                self.format_write(f, at, table, FormatStage::TableWritten)
            }
            FormatStage::TableWritten => {
                let flags = OpenFlags { rdwr: true, no_flush: true, ..OpenFlags::default() };
                let perm = perm::CONSISTENT_READ | perm::WRITE | perm::RESIZE;
                self.format_open(f, flags, perm, FormatStage::Opened)
            }
            FormatStage::Opened => self.format_step(f, CreateStep::Count, FormatStage::Counted),
            FormatStage::Counted => self.format_step(f, CreateStep::Resize, FormatStage::Resized),
            FormatStage::Resized if f.options.backing_file.is_some() => {
                self.format_step(f, CreateStep::SetBacking, FormatStage::BackingSet)
            }
            FormatStage::Resized | FormatStage::BackingSet => {
                let flags = OpenFlags { rdwr: true, no_backing: true, ..OpenFlags::default() };
                self.format_open(f, flags, 0, FormatStage::Reopened)
            }
            FormatStage::Reopened => self.format_end(&f, Ok(())),
        }
    }

    /// What became of the stage, in the words of `qcow2_co_create`.
    fn format_result(&mut self, f: &mut Formatting, stage: FormatStage) -> Result<(), QmpError> {
        let what = match stage {
            FormatStage::HeaderWritten => "Could not write qcow2 header",
            FormatStage::TableWritten => "Could not write refcount table",
            _ => "Could not create image",
        };
        match std::mem::take(&mut self.reg) {
            Val::Backend(blk) => f.blk = Some(blk?),
            Val::Opened(Err(fault)) => return Err(QmpError::generic(fault.to_string())),
            Val::Ret(Err(errno)) => return Err(QmpError::generic(format!("{what}: {errno}")).with_errno(errno)),
            _ => {}
        }
        Ok(())
    }

    fn format_write(&mut self, f: Box<Formatting>, offset: u64, data: Data, next: FormatStage) -> Flow {
        let blk = f.blk.expect("it has a backend");
        let (bytes, flags) = (data.len(), IoFlags::NONE);
        let request = Box::new(BlkRequest::Write { offset, data: Some(data), bytes, flags });
        self.seq([Frame::BlkCo { blk, request }, Frame::Formatting(f, next)])
    }

    /// The backend of the moment goes, and one that opens the image comes.
    fn format_open(&mut self, mut f: Box<Formatting>, flags: OpenFlags, perm: u8, next: FormatStage) -> Flow {
        let gone = Frame::BlkUnref(f.blk.take().expect("it has a backend"));
        let file = OpenSpec::reference(self.graph.nodes[f.file].node_name.clone());
        let spec = OpenSpec { file: Some(Arc::new(file)), ..OpenSpec::new(DriverSpec::qcow2(), flags) };
        let open = Frame::BlkNewOpen { spec: Arc::new(spec), perm };
        self.seq([Frame::OnMain(Box::new(gone)), Frame::OnMain(Box::new(open)), Frame::Formatting(f, next)])
    }

    /// Work on the open image, under the graph's reader lock.
    fn format_step(&mut self, f: Box<Formatting>, step: CreateStep, next: FormatStage) -> Flow {
        let node = f.blk.and_then(|blk| self.graph.blk_bs(blk)).expect("the image is open");
        let op = Box::new(Op::create_step(f.options.clone(), step));
        self.seq([
            Frame::Rdlock,
            Frame::RunCo(Box::new(Frame::Qcow2Op { node, op })),
            Frame::KeepOver(Box::new(Frame::Rdunlock)),
            Frame::Formatting(f, next),
        ])
    }

    fn format_end(&mut self, f: &Formatting, done: Result<(), QmpError>) -> Flow {
        self.stack.push(Frame::Give(Box::new(Val::Done(done))));
        let gone = f.blk.map_or(Frame::LockGraph(0), Frame::BlkUnref);
        self.seq([Frame::OnMain(Box::new(gone))])
    }

    /// `blk_new_with_bs`, with all shared. Leaves `Val::Backend`.
    pub(in crate::world) fn blk_new_with_bs(&mut self, bs: NodeId, perm: u8, beyond_eof: bool) -> Flow {
        let blk = self.blk_new("".into(), perm, perm::ALL);
        self.graph.backends[blk].allow_write_beyond_eof = beyond_eof;
        self.seq([Frame::BlkInsertBs(blk, bs), Frame::BlkNewAttached(blk)])
    }

    /// The end of `blk_new_with_bs`.
    pub(in crate::world) fn blk_new_attached(&mut self, blk: BackendId) -> Flow {
        let done = self.take_done();
        if done.is_err() {
            self.graph.backends.remove(blk);
        }
        self.ret(Val::Backend(done.map(|()| blk)))
    }

    /// `blk_new_open`, once the node is open or not. Leaves `Val::Backend`.
    pub(in crate::world) fn blk_new_opened(&mut self, perm: u8) -> Flow {
        match std::mem::take(&mut self.reg) {
            Val::Node(Ok(bs)) => self.seq([
                Frame::BlkNewWithBs { bs, perm, beyond_eof: false },
                Frame::KeepOver(Box::new(Frame::BdrvUnref(bs))),
            ]),
            Val::Node(Err(err)) => self.ret(Val::Backend(Err(err))),
            other => unreachable!("a node or an error, not {other:?}"),
        }
    }
}
