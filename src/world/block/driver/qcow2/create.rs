//! Formatting: `qcow2_co_create` over an open node (`block/qcow2.c`), with the backends through which it does so.
//!
//! It is work like any other. Bystanders see each change of the graph, and its requests wait where all is drained.

use crate::base::time::Span;
use crate::base::units::align_up;
use crate::block::content::Data;
use crate::block::qcow2::{CreateOptions, CreateOptions as Qcow2Options, CreateStep, Qcow2Call};
use crate::qmp::error::QmpError;
use crate::qmp::types::{BlockdevRef, CreateQcow2, PreallocMode, Qcow2CompressionType, Qcow2Version};
use crate::world::World;
use crate::world::aio::device::DeviceOp;
use crate::world::arena::{BackendId, NodeId};
use crate::world::block::backend::BackendFrame;
use crate::world::block::backend::BlkRequest;
use crate::world::block::create::ImgCreateFrame;
use crate::world::block::create::{AfterCreate, NewImage};
use crate::world::block::driver::Driver;
use crate::world::block::driver::file::FileDriver;
use crate::world::block::driver::qcow2::Qcow2Frame;
use crate::world::block::graph::GraphFrame;
use crate::world::block::graph::{Node, OpenFlags};
use crate::world::block::graph_lock::GraphLockFrame;
use crate::world::block::io::request::IoFlags;
use crate::world::block::open::open::OpenFrame;
use crate::world::block::open::spec::{DriverSpec, OpenSpec};
use crate::world::block::perms::perm;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

/// An image that is being formatted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Formatting {
    /// What the image will be in.
    file: NodeId,
    /// The backend of the moment.
    pub(in crate::world) blk: Option<BackendId>,
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

/// How long a worker thread takes to set the length of a new file, in nanoseconds.
pub(in crate::world) const TRUNCATE: Span = Span::from_micros(40);

/// A bottom half that changes nothing: a reference taken or given up, also of a data file that is not there.
fn on_main_nothing() -> Frame {
    Frame::OnMain(Box::new(GraphLockFrame::LockGraph(0).into()))
}

/// The frames of this file: the rest of a function each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is explained at the method that it runs")]
pub enum Qcow2CreateFrame {
    ImgCreateQcow2(Box<NewImage>),
    Qcow2Format { file: NodeId, options: Box<CreateOptions> },
    Qcow2CreateFile { file: NodeId, options: Box<CreateOptions> },
    Formatting(Box<Formatting>, FormatStage),
    RawTruncate(NodeId),
    CreateOver(Box<CreateQcow2>),
}

impl Qcow2CreateFrame {
    /// Runs the frame.
    pub(in crate::world) fn run(self, w: &mut World) -> Flow {
        match self {
            Qcow2CreateFrame::ImgCreateQcow2(image) => w.img_create_qcow2(*image),
            Qcow2CreateFrame::Qcow2Format { file, options } => w.qcow2_format(file, options),
            Qcow2CreateFrame::Qcow2CreateFile { file, options } => w.qcow2_create_file_co(file, options),
            Qcow2CreateFrame::Formatting(formatting, stage) => w.formatting(formatting, stage),
            Qcow2CreateFrame::RawTruncate(file) => w.raw_truncate(file),
            Qcow2CreateFrame::CreateOver(options) => w.create_over(&options),
        }
    }
}

impl World {
    /// `qcow2_co_create`, but for the reference to `file` that it takes. Runs in a coroutine. Leaves `Val::Done`.
    fn qcow2_format(&mut self, file: NodeId, options: Box<CreateOptions>) -> Flow {
        if let Err(fault) = options.check() {
            return self.ret(Val::Done(Err(QmpError::generic(fault.to_string()))));
        }
        let (perm, beyond_eof) = (perm::WRITE | perm::RESIZE, true);
        let attach = BackendFrame::BlkNewWithBs { bs: file, perm, beyond_eof }.into();
        let f = Box::new(Formatting { file, blk: None, options: *options });
        self.seq([Frame::OnMain(Box::new(attach)), Qcow2CreateFrame::Formatting(f, FormatStage::Attached).into()])
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
        match self.take_val() {
            Val::Backend(blk) => {
                f.blk = Some(blk?);
                Ok(())
            }
            Val::Ret(Err(errno)) => Err(QmpError::generic(format!("{what}: {errno}")).with_errno(errno)),
            other => other.error().map_or(Ok(()), Err),
        }
    }

    fn format_write(&mut self, f: Box<Formatting>, offset: u64, data: Data, next: FormatStage) -> Flow {
        let blk = f.blk.expect("it has a backend");
        let (bytes, flags) = (data.len(), IoFlags::NONE);
        let request = Box::new(BlkRequest::Write { offset, data: Some(data), bytes, flags });
        self.seq([BackendFrame::BlkCo { blk, request }.into(), Qcow2CreateFrame::Formatting(f, next).into()])
    }

    /// The backend of the moment goes, and one that opens the image comes.
    fn format_open(&mut self, mut f: Box<Formatting>, flags: OpenFlags, perm: u8, next: FormatStage) -> Flow {
        let gone = BackendFrame::BlkUnref(f.blk.take().expect("it has a backend")).into();
        let file = OpenSpec::reference(self.graph.nodes[f.file].node_name.clone());
        let spec = OpenSpec { file: Some(Arc::new(file)), ..OpenSpec::new(DriverSpec::qcow2(), flags) };
        let open = BackendFrame::BlkNewOpen { spec: Arc::new(spec), perm }.into();
        self.seq([
            Frame::OnMain(Box::new(gone)),
            Frame::OnMain(Box::new(open)),
            Qcow2CreateFrame::Formatting(f, next).into(),
        ])
    }

    /// Work on the open image, under the graph's reader lock.
    fn format_step(&mut self, f: Box<Formatting>, step: CreateStep, next: FormatStage) -> Flow {
        let node = f.blk.and_then(|blk| self.graph.blk_bs(blk)).expect("the image is open");
        let op = Box::new(Qcow2Call::create_step(f.options.clone(), step));
        self.seq([
            GraphLockFrame::Rdlock.into(),
            Frame::RunCo(Box::new(Qcow2Frame::Qcow2Op { node, op }.into())),
            Frame::KeepOver(Box::new(GraphLockFrame::Rdunlock.into())),
            Qcow2CreateFrame::Formatting(f, next).into(),
        ])
    }

    fn format_end(&mut self, f: &Formatting, done: Result<(), QmpError>) -> Flow {
        self.push(Frame::Give(Box::new(Val::Done(done))));
        let gone = f.blk.map_or(GraphLockFrame::LockGraph(0).into(), |blk| BackendFrame::BlkUnref(blk).into());
        self.seq([Frame::OnMain(Box::new(gone))])
    }

    /// `bdrv_img_create`: the image itself. Leaves `Val::Done`.
    fn img_create_qcow2(&mut self, image: NewImage) -> Flow {
        let NewImage { path, backing, size, .. } = image;
        self.console(&formatting_text(&path, size, backing.as_ref().map(|(file, format)| (&**file, &**format))));
        let (file, format) = backing.map_or((None, None), |(file, format)| (Some(file), Some(format)));
        let options = Qcow2Options {
            backing_file: file.map(|f| f.to_string()),
            backing_format: format.map(|f| f.to_string()),
            ..Qcow2Options::new(align_up(size, 512))
        };
        self.raw_create(path, 0, false, Box::new(AfterCreate::Qcow2(options)))
    }

    /// `qcow2_co_create_opts`: a node for the new file, formatted and given up again.
    pub(in crate::world) fn qcow2_create_file(&mut self, path: &Arc<str>, options: Qcow2Options) -> Flow {
        let mut node = Node::new();
        node.flags = OpenFlags { rdwr: true, unmap: true, ..OpenFlags::default() };
        node.driver = Some(Driver::File(FileDriver {
            path: self.files.key(path),
            filename: path.clone(),
            locking: true,
            discards: (0, 0),
        }));
        node.size = 0;
        let file = self.bdrv_new(node);
        self.assign_node_name(file, None).expect("a made-up name is free");
        let create = Qcow2CreateFrame::Qcow2CreateFile { file, options: Box::new(options) }.into();
        self.seq([Frame::RunCo(Box::new(create)), ImgCreateFrame::ImgCreated("qcow2".into()).into()])
    }

    /// `qcow2_co_create_opts`, in its coroutine. What it does to the graph is done by the main thread, in bottom halves.
    fn qcow2_create_file_co(&mut self, file: NodeId, options: Box<Qcow2Options>) -> Flow {
        self.seq([
            // `raw_co_create` empties the file, and makes it as long as it is to be.
            Qcow2CreateFrame::RawTruncate(file).into(),
            Qcow2CreateFrame::RawTruncate(file).into(),
            // `bdrv_co_open`: the node is there already, to have something that the file's requests are of.
            on_main_nothing(),
            // `qcow2_co_create` takes a reference and gives it up.
            on_main_nothing(),
            Qcow2CreateFrame::Qcow2Format { file, options }.into(),
            Frame::KeepOver(Box::new(on_main_nothing())),
            Frame::KeepOver(Box::new(on_main_nothing())),
            Frame::KeepOver(Box::new(Frame::OnMain(Box::new(GraphFrame::BdrvUnref(file).into())))),
            Frame::KeepOver(Box::new(on_main_nothing())),
        ])
    }

    /// A worker thread sets the length of a new file.
    fn raw_truncate(&mut self, file: NodeId) -> Flow {
        self.device_submit(file, DeviceOp::Nothing, 0, TRUNCATE.as_nanos())
    }

    /// `qcow2_co_create` for a job, in its coroutine.
    pub(in crate::world) fn create_qcow2(&mut self, q: &CreateQcow2) -> Flow {
        match &q.file {
            // `bdrv_co_open_blockdev_ref`: opened for this, and closed again.
            BlockdevRef::Definition(options) => {
                let spec = Arc::new(OpenSpec::from_options(options, None));
                let open = Frame::OnMain(Box::new(OpenFrame::BdrvOpen(spec).into()));
                self.seq([open, Qcow2CreateFrame::CreateOver(Box::new(q.clone())).into()])
            }
            BlockdevRef::Reference(name) => {
                // A reference is taken and given up by the main thread, too.
                match self.lookup_bs(name) {
                    Ok(file) => {
                        self.push(Frame::KeepOver(Box::new(on_main_nothing())));
                        self.push(Frame::KeepOver(Box::new(on_main_nothing())));
                        let _ = self.create_over_node(q, file);
                    }
                    Err(err) => self.push(Frame::Give(Box::new(Val::Done(Err(err))))),
                }
                self.seq([on_main_nothing()])
            }
        }
    }

    /// The same, over a file that was opened.
    fn create_over(&mut self, q: &CreateQcow2) -> Flow {
        let opened: Result<NodeId, QmpError> = self.take();
        match opened {
            Ok(file) => {
                let unref = Frame::OnMain(Box::new(GraphFrame::BdrvUnref(file).into()));
                self.push(Frame::KeepOver(Box::new(on_main_nothing())));
                self.push(Frame::KeepOver(Box::new(unref)));
                self.create_over_node(q, file)
            }
            Err(err) => self.ret(Val::Done(Err(err))),
        }
    }

    fn create_over_node(&mut self, q: &CreateQcow2, file: NodeId) -> Flow {
        let options = Qcow2Options {
            size: q.size,
            version: if q.version == Some(Qcow2Version::V2) { 2 } else { 3 },
            cluster_size: q.cluster_size.unwrap_or(65_536),
            backing_file: q.backing_file.as_ref().map(ToString::to_string),
            backing_format: q.backing_fmt.map(|d| d.name().to_owned()),
            lazy_refcounts: q.lazy_refcounts.unwrap_or(false),
            refcount_bits: u32::try_from(q.refcount_bits.unwrap_or(16)).unwrap_or(0),
            zstd: q.compression_type == Some(Qcow2CompressionType::Zstd),
            preallocation: q.preallocation.is_some_and(|mode| mode != PreallocMode::Off),
        };
        self.seq([Qcow2CreateFrame::Qcow2Format { file, options: Box::new(options) }.into()])
    }
}

/// What `bdrv_img_create` says. A comma in a value is doubled (`escaped_print`), one in the name of the file is not.
fn formatting_text(path: &str, size: u64, backing: Option<(&str, &str)>) -> String {
    let below = backing.map(|(file, format)| format!(" backing_file={} backing_fmt={format}", file.replace(',', ",,")));
    format!(
        "Formatting '{path}', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size={size}{} \
         lazy_refcounts=off refcount_bits=16",
        below.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_doubled_in_values() {
        let backing = r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "s.qcow2"}}"#;
        // As QEMU 10.0.2 prints it.
        let printed = "Formatting 't,1.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=4194304 \
                       backing_file=json:{\"driver\": \"qcow2\",, \"file\": {\"driver\": \"file\",, \"filename\": \"s.qcow2\"}} \
                       backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16";
        assert_eq!(formatting_text("t,1.qcow2", 4_194_304, Some((backing, "qcow2"))), printed);
    }
}
