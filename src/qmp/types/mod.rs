//! The argument types of QMP commands (qapi/block-core.json, qapi/job.json, qapi/transaction.json and others).
//!
//! An `Option` is `None` when the member is absent: QEMU's defaults are applied by the one who runs the command,
//! because whether a member was given sometimes matters.

pub mod bitmap;
pub mod blockdev;
pub mod create;
pub mod drivers;
pub mod enums;
pub mod export;
pub mod jobs;
pub mod machine;
pub mod medium;
pub mod objects;
pub mod socket;
pub mod transaction;

pub use bitmap::*;
pub use blockdev::*;
pub use create::*;
pub use drivers::*;
pub use enums::*;
pub use export::*;
pub use jobs::*;
pub use machine::MachineCommand;
pub use medium::*;
pub use objects::*;
pub use socket::*;
pub use transaction::*;
