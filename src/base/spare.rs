//! Lists that are empty, kept for the room they have.

use std::hash::{Hash, Hasher};

/// How many lists are kept at most.
const MOST: usize = 64;

/// Empty lists to be used again. They are no part of a value: all are equal, and a copy has none.
#[derive(Debug)]
pub struct Spare<T> {
    lists: Vec<Vec<T>>,
}

impl<T> Spare<T> {
    /// An empty list, with room if there is one.
    pub fn take(&mut self) -> Vec<T> {
        self.lists.pop().unwrap_or_default()
    }

    /// Keeps the room of a list. What it still holds is dropped.
    pub fn give(&mut self, mut list: Vec<T>) {
        if self.lists.len() < MOST {
            list.clear();
            self.lists.push(list);
        }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Spare { lists: Vec::new() }
    }
}

impl<T> Clone for Spare<T> {
    fn clone(&self) -> Self {
        Spare::default()
    }
}

impl<T> PartialEq for Spare<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Spare<T> {}

impl<T> Hash for Spare<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
