//! Kinds of random programs, as `generate`, `fuzz --generate` and `conform` take them: with the same words.

use crate::generate::Kind;
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
    pub fn of_generator(self) -> Kind {
        match self {
            KindArg::WellBehaved => Kind::WellBehaved,
            KindArg::Hostile => Kind::Hostile,
            KindArg::Racing => Kind::Racing,
        }
    }

    /// For a program that a real QEMU carries out too.
    pub fn of_conform(self) -> program::Kind {
        match self {
            KindArg::WellBehaved => program::Kind::Well,
            KindArg::Hostile => program::Kind::Faulty,
            KindArg::Racing => program::Kind::Racing,
        }
    }
}
