//! What a blkdebug node is to do (`block/blkdebug.c:blkdebug_open`).

use super::spec::DriverSpec;
use crate::block::blkdebug::{Action, InjectError, IoType, IoTypeMask, Limits, Rule};
use crate::qmp::types::{BlkdebugIoType, BlkdebugOptions, BlockPermission};
use crate::world::block::perms::perm;

fn perm_bits(perms: Option<&Vec<BlockPermission>>) -> u8 {
    perms.into_iter().flatten().fold(0, |bits, p| {
        bits | match p {
            BlockPermission::ConsistentRead => perm::CONSISTENT_READ,
            BlockPermission::Write => perm::WRITE,
            BlockPermission::WriteUnchanged => perm::WRITE_UNCHANGED,
            BlockPermission::Resize => perm::RESIZE,
        }
    })
}

pub(super) fn blkdebug_spec(options: &BlkdebugOptions) -> DriverSpec {
    let state = |s: Option<i64>| i32::try_from(s.unwrap_or(0)).unwrap_or(-1);
    let mut rules: Vec<Rule> = Vec::new();
    for rule in options.inject_error.iter().flatten() {
        let iotype = rule.iotype.map_or(IoTypeMask::DEFAULT, |t| {
            IoTypeMask::only(match t {
                BlkdebugIoType::Read => IoType::Read,
                BlkdebugIoType::Write => IoType::Write,
                BlkdebugIoType::WriteZeroes => IoType::WriteZeroes,
                BlkdebugIoType::Discard => IoType::Discard,
                BlkdebugIoType::Flush => IoType::Flush,
                BlkdebugIoType::BlockStatus => IoType::BlockStatus,
            })
        });
        rules.push(Rule {
            event: rule.event,
            state: state(rule.state),
            action: Action::InjectError(InjectError {
                errno: InjectError::errno_option(rule.errno.unwrap_or(5)),
                iotype,
                sector: InjectError::sector_option(rule.sector.unwrap_or(-1)),
                once: rule.once.unwrap_or(false),
                immediately: rule.immediately.unwrap_or(false),
            }),
        });
    }
    for rule in options.set_state.iter().flatten() {
        let new_state = i32::try_from(rule.new_state).unwrap_or(0);
        rules.push(Rule { event: rule.event, state: state(rule.state), action: Action::SetState { new_state } });
    }
    let size = |n: Option<i32>| u64::from(n.unwrap_or(0).unsigned_abs());
    DriverSpec::Blkdebug {
        rules: rules.into(),
        config: options.config.clone(),
        limits: Limits {
            align: options.align.unwrap_or(0).unsigned_abs(),
            max_transfer: size(options.max_transfer),
            opt_write_zero: size(options.opt_write_zero),
            max_write_zero: size(options.max_write_zero),
            opt_discard: size(options.opt_discard),
            max_discard: size(options.max_discard),
        },
        take: perm_bits(options.take_child_perms.as_ref()),
        unshare: perm_bits(options.unshare_child_perms.as_ref()),
    }
}
