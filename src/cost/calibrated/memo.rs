//! A table of prices by a small integer that fills as it is asked.

use std::collections::HashMap;

/// Below this, entries live in a vector.
const DENSE: u64 = 16_384;

#[derive(Clone, Debug)]
pub(super) struct Memo<T> {
    dense: Vec<Option<T>>,
    sparse: HashMap<u64, T>,
}

impl<T: Copy> Memo<T> {
    pub fn new() -> Self {
        Self { dense: Vec::new(), sparse: HashMap::new() }
    }

    #[inline]
    pub fn get(&self, key: u64) -> Option<&T> {
        if key < DENSE {
            self.dense.get(key as usize).and_then(Option::as_ref)
        } else {
            self.sparse.get(&key)
        }
    }

    pub fn insert(&mut self, key: u64, value: T) {
        if key < DENSE {
            let index = key as usize;
            if self.dense.len() <= index {
                self.dense.resize(index + 1, None);
            }
            self.dense[index] = Some(value);
        } else {
            self.sparse.insert(key, value);
        }
    }
}
