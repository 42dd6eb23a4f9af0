//! `block-commit`: which nodes are meant, and whether they may be (`blockdev.c:qmp_block_commit`).

use crate::qmp::command::Command;
use crate::qmp::error::{ErrorClass, QmpError};
use crate::qmp::types::{BlockCommit, OnError};
use crate::world::World;
use crate::world::arena::NodeId;
use crate::world::block::perms::perm;
use crate::world::frame::Flow;
use crate::world::job::JobFlags;
use crate::world::job::commands::JobCommands;
use crate::world::job::commit::CommitArgs;
use crate::world::job::mirror::CommitActiveArgs;
use crate::world::value::Val;
use std::sync::Arc;

/// `qmp_block_commit`. The human monitor has none that starts a job.
pub(super) const COMMANDS: JobCommands = JobCommands {
    qmp: |w, command| match command {
        Command::BlockCommit(args) => Ok(w.block_commit(&args)),
        other => Err(other),
    },
    hmp: &[],
    actions: None,
    listed_as: None,
};

/// What a commit is to do, once all is checked.
enum Commit {
    /// Somebody writes to the topmost node (`commit_active_start`).
    Active(Box<CommitActiveArgs>),
    /// Nobody does (`commit_start`).
    Intermediate(Box<CommitArgs>),
}

impl World {
    /// `qmp_block_commit`. Leaves `Val::Done`.
    fn block_commit(&mut self, args: &BlockCommit) -> Flow {
        match self.block_commit_checks(args) {
            Err(err) => self.ret(Val::Done(Err(err))),
            Ok(Commit::Active(start)) => self.commit_active_start(*start),
            Ok(Commit::Intermediate(start)) => self.commit_start(start),
        }
    }

    fn block_commit_checks(&self, args: &BlockCommit) -> Result<Commit, QmpError> {
        let bs = self.commit_root(&args.device)?;
        self.not_blocked(bs)?;
        let top = self.commit_top_of(args, bs)?;
        let base = self.commit_base_of(args, top)?;
        let (mut iter, end) = (Some(top), self.graph.filter_or_cow_bs(base));
        while let Some(node) = iter.filter(|_| iter != end) {
            self.not_blocked(node)?;
            iter = self.graph.filter_or_cow_bs(node);
        }
        if top == base {
            return Err(QmpError::generic("cannot commit an image into itself"));
        }
        let is_active_layer = self.graph.skip_filters(top) == self.graph.skip_filters(bs);
        let has_writer = self.graph.cumulative_perm(top).0 & perm::WRITE != 0;
        if is_active_layer || has_writer {
            return match (&args.backing_file, is_active_layer) {
                (None, _) => Ok(Commit::Active(Box::new(self.commit_active_args(args, bs, top, base)))),
                (_, true) => Err(QmpError::generic("'backing-file' specified, but 'top' is the active layer")),
                (_, false) => Err(QmpError::generic("'backing-file' specified, but 'top' has a writer on it")),
            };
        }
        if let Some(overlay) = self.graph.find_overlay(bs, Some(top)) {
            self.not_blocked(overlay)?;
        }
        Ok(Commit::Intermediate(Box::new(CommitArgs {
            flags: JobFlags {
                id: args.job_id.clone(),
                auto_finalize: args.auto_finalize.unwrap_or(true),
                auto_dismiss: args.auto_dismiss.unwrap_or(true),
                speed: args.speed.unwrap_or(0),
            },
            bs,
            base,
            top,
            on_error: args.on_error.unwrap_or(OnError::Report),
            backing_file: args.backing_file.clone(),
            backing_mask_protocol: args.backing_mask_protocol.unwrap_or(false),
            filter_node_name: args.filter_node_name.clone(),
        })))
    }

    /// The commit of an active layer. Its job is named after the root even where that is a filter above the layer.
    fn commit_active_args(&self, args: &BlockCommit, bs: NodeId, top: NodeId, base: NodeId) -> CommitActiveArgs {
        let id = args.job_id.clone().unwrap_or_else(|| self.graph.device_name(bs));
        CommitActiveArgs {
            flags: JobFlags {
                id: Some(id),
                auto_finalize: args.auto_finalize.unwrap_or(true),
                auto_dismiss: args.auto_dismiss.unwrap_or(true),
                speed: args.speed.unwrap_or(0),
            },
            bs: top,
            base,
            on_error: args.on_error.unwrap_or(OnError::Report),
            filter_node_name: args.filter_node_name.clone(),
        }
    }

    /// `BLOCK_OP_TYPE_COMMIT_SOURCE` and `BLOCK_OP_TYPE_COMMIT_TARGET`: jobs forbid it, overlays do not.
    fn not_blocked(&self, bs: NodeId) -> Result<(), QmpError> {
        self.op_blocked_by_job(bs).map_or(Ok(()), Err)
    }

    /// The node of `device`. libvirt tells by the class of the error whether there are commits at all.
    fn commit_root(&self, device: &Arc<str>) -> Result<NodeId, QmpError> {
        let not_found = || QmpError::new(ErrorClass::DeviceNotFound, format!("Device '{device}' not found"));
        let bs = self.graph.lookup(Some(device), Some(device)).ok_or_else(not_found)?;
        if !self.graph.is_root_node(bs) {
            return Err(QmpError::generic("Need a root block node"));
        }
        Ok(bs)
    }

    fn commit_top_of(&self, args: &BlockCommit, bs: NodeId) -> Result<NodeId, QmpError> {
        match (&args.top_node, &args.top) {
            (Some(_), Some(_)) => Err(QmpError::generic("'top-node' and 'top' are mutually exclusive")),
            (Some(name), None) => self.node_in_chain(bs, name),
            (None, Some(top)) if *self.filename_of(bs) != **top => {
                let not_found = || QmpError::generic(format!("Top image file {top} not found"));
                self.find_backing_image(bs, top).ok_or_else(not_found)
            }
            (None, _) => Ok(bs),
        }
    }

    fn commit_base_of(&self, args: &BlockCommit, top: NodeId) -> Result<NodeId, QmpError> {
        match (&args.base_node, &args.base) {
            (Some(_), Some(_)) => Err(QmpError::generic("'base-node' and 'base' are mutually exclusive")),
            (Some(name), None) => self.node_in_chain(top, name),
            (None, Some(base)) => {
                let not_found = || QmpError::generic(format!("Can't find '{base}' in the backing chain"));
                self.find_backing_image(top, base).ok_or_else(not_found)
            }
            (None, None) => Ok(self.graph.find_base(top)),
        }
    }

    fn node_in_chain(&self, top: NodeId, name: &str) -> Result<NodeId, QmpError> {
        let node = self.bdrv_lookup_bs(None, Some(name))?;
        if !self.graph.chain_contains(top, node) {
            return Err(QmpError::generic(format!("'{name}' is not in this backing file chain")));
        }
        Ok(node)
    }
}
