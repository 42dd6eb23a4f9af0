//! The QMP protocol as data: texts, requests, arguments and errors. Nothing here runs a command.

pub mod command;
pub mod declare;
pub mod device_properties;
pub mod drive;
pub mod error;
pub mod event;
pub mod hash_order;
pub mod hmp;
pub mod json;
pub mod keyval;
pub mod lexer;
pub mod names;
pub mod print;
pub mod recorded;
pub mod request;
pub mod types;
pub mod visit;

pub use command::{Command, parse_command};
pub use error::{ErrorClass, QmpError};
pub use request::{Request, parse_request};
