//! Steps that only look: bitmaps, images, and events that did not come.

use crate::scenario::error::{Fault, Read};
use crate::scenario::form::{EachName, Form, ValueKind, ValueType, form};
use crate::scenario::kinds::{Bool, Bytes, EventNames, OldFiles, Ranges, Size, Text};
use crate::scenario::plan::BitmapCheck;
use crate::scenario::tree::{Node, Value};
use crate::scenario::yaml::Yaml;
use std::sync::Arc;

form! {
    /// What must hold of a dirty bitmap.
    Bitmap: BitmapCheck = "bitmap" (BitmapCheck {
        node,
        name,
        absent,
        ranges,
        count,
        granularity,
        busy,
        recording,
        persistent,
        inconsistent,
    });
    node: req Text, "the node that has it";
    name: req Text, "its name";
    absent: def Bool = false, "there is none";
    ranges: opt Ranges, "all dirty areas";
    count: opt Bytes, "dirty bytes";
    granularity: opt Size, "bytes a bit stands for";
    busy: opt Bool, "a job uses it";
    recording: opt Bool, "it notes new writes";
    persistent: opt Bool, "it is to be stored in the image";
    inconsistent: opt Bool, "it was found inconsistent";
}

/// Images that are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Images;

impl ValueKind for Images {
    type Of = Vec<Arc<str>>;
    const TYPE: ValueType = OldFiles::TYPE;

    fn read(node: &Node) -> Read<Vec<Arc<str>>> {
        let images = OldFiles::read(node)?;
        if images.len() < 2 {
            return Err(Fault::new(
                node.span,
                "`same` compares images with each other",
                "expected two or more file names",
            ));
        }
        Ok(images)
    }

    fn write(of: &Vec<Arc<str>>) -> Option<Yaml> {
        OldFiles::write(of)
    }

    fn names<'a>(of: &'a Vec<Arc<str>>, each: EachName<'_, 'a>) {
        OldFiles::names(of, each);
    }
}

form! {
    /// Events that may be queued.
    Except: Vec<Arc<str>> = "no-events" ((except));
    except: req EventNames, "but for events of these names";
}

/// That no event is queued, but for some.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoEvents;

impl ValueKind for NoEvents {
    type Of = Vec<Arc<str>>;
    const TYPE: ValueType = ValueType::Or(&[ValueType::True, ValueType::Map(Except::MEMBERS)]);

    fn read(node: &Node) -> Read<Vec<Arc<str>>> {
        match node.value {
            Value::Map(_) => Except::read(node),
            _ => node.only_true().map(|()| Vec::new()),
        }
    }

    fn write(of: &Vec<Arc<str>>) -> Option<Yaml> {
        if of.is_empty() { Some(Yaml::bool(true)) } else { Except::write(of) }
    }

    fn names<'a>(of: &'a Vec<Arc<str>>, each: EachName<'_, 'a>) {
        EventNames::names(of, each);
    }
}
