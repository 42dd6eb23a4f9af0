//! The backing file of a node that is being opened, or was opened without one (`block.c:bdrv_open_backing_file`).

use super::open::{OpenFrame, OpenStage, Opening};
use super::spec::{BackingSpec, OpenSpec};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::edges::EdgesFrame;
use crate::world::block::graph::GraphFrame;
use crate::world::frame::{Flow, Frame};
use crate::world::value::Val;
use std::sync::Arc;

impl World {
    /// `bdrv_open_backing_file`
    pub(super) fn open_backing(&mut self, o: Box<Opening>) -> Flow {
        let node = &self.graph.nodes[o.bs];
        let backing = match &o.spec.backing {
            _ if !node.drv().supports_backing() || o.spec.flags.no_backing => None,
            BackingSpec::None => None,
            // An empty name stands for none, but not where a node is opened again.
            BackingSpec::Spec(spec) if spec.reference.as_deref() == Some("") => None,
            BackingSpec::Spec(spec) => Some(spec.clone()),
            BackingSpec::FromImage if node.backing_file.is_empty() && o.spec.backing_options.is_none() => None,
            BackingSpec::FromImage => {
                let format = Some(&*node.backing_format).filter(|f| !f.is_empty());
                let name = match node.backing_file.is_empty() {
                    true => String::new(),
                    false => self.full_backing_filename_of(o.bs).unwrap_or_default(),
                };
                Some(Arc::new(OpenSpec::backing_of(&name, format, &o.spec)))
            }
        };
        match backing {
            Some(spec) => {
                self.seq([OpenFrame::BdrvOpen(spec).into(), OpenFrame::Open(o, OpenStage::BackingOpened).into()])
            }
            None => self.open_end(&o),
        }
    }

    /// `bdrv_open_backing_file` of a node that was opened without one. Leaves `Val::Done`.
    pub(in crate::world) fn open_backing_file(&mut self, bs: NodeId) -> Flow {
        let node = &mut self.graph.nodes[bs];
        if node.backing.is_some() {
            return self.ret(Val::Done(Ok(())));
        }
        node.flags.no_backing = false;
        let flags = node.flags;
        let spec = node.spec.as_deref().cloned().expect("it was opened by a description");
        let spec = OpenSpec { flags, backing: BackingSpec::FromImage, unknown: None, ..OpenSpec::clone(&spec) };
        // A failure gives up a reference.
        self.bdrv_ref(bs);
        self.push(OpenFrame::OpenedBackingFile(bs).into());
        self.open_backing(Box::new(Opening { spec: Arc::new(spec), bs, file_bs: None, probe: None }))
    }

    /// The end of `bdrv_open_backing_file`.
    pub(in crate::world) fn opened_backing_file(&mut self, bs: NodeId) -> Flow {
        match self.take_node() {
            Ok(_) => {
                self.graph.nodes[bs].refcnt -= 1;
                self.ret(Val::Done(Ok(())))
            }
            Err(err) => {
                self.graph.nodes[bs].flags.no_backing = true;
                self.ret(Val::Done(Err(err)))
            }
        }
    }

    pub(super) fn open_backing_opened(&mut self, o: Box<Opening>) -> Flow {
        match self.take_node() {
            Err(mut err) => {
                err.desc = format!("Could not open backing file: {}", err.desc).into();
                self.open_failed(&o, err)
            }
            Ok(backing) => {
                let bs = o.bs;
                let spec = match &o.spec.backing {
                    BackingSpec::Spec(spec) => Some(&**spec),
                    BackingSpec::FromImage | BackingSpec::None => None,
                };
                self.inherits(backing, bs, spec);
                if o.spec.backing == BackingSpec::FromImage && o.spec.backing_options.is_none() {
                    self.graph.nodes[bs].auto_backing_file = self.filename_of(backing);
                }
                self.seq([
                    EdgesFrame::SetBackingHd { bs, backing }.into(),
                    Frame::KeepOver(Box::new(GraphFrame::BdrvUnref(backing).into())),
                    OpenFrame::Open(o, OpenStage::BackingAttached).into(),
                ])
            }
        }
    }

    pub(super) fn open_backing_attached(&mut self, o: Box<Opening>) -> Flow {
        match self.take_done() {
            Err(err) => self.open_failed(&o, err),
            Ok(()) => self.open_end(&o),
        }
    }
}
