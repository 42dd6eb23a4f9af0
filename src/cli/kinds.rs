//! Kinds of random programs, as `generate`, `fuzz --generate` and `conform` take them: with the same words.

use crate::generate::ClientKind;
use crate::interop::conform::program;
use clap::ValueEnum;

/// What kind of client a random program stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KindArg {
    /// A client that waits and makes no mistakes
    #[value(alias = "well")]
    WellBehaved,
    /// A client that waits and makes mistakes, on disks with faults
    #[value(alias = "faulty")]
    Hostile,
    /// A client that does not wait
    Racing,
}

impl KindArg {
    /// For the generator.
    pub fn of_generator(self) -> ClientKind {
        match self {
            KindArg::WellBehaved => ClientKind::WellBehaved,
            KindArg::Hostile => ClientKind::Hostile,
            KindArg::Racing => ClientKind::Racing,
        }
    }

    /// For a program that a real QEMU carries out too.
    pub fn of_conform(self) -> program::ProgramKind {
        match self {
            KindArg::WellBehaved => program::ProgramKind::Well,
            KindArg::Hostile => program::ProgramKind::Faulty,
            KindArg::Racing => program::ProgramKind::Racing,
        }
    }
}
