//! Whether a table's file is whole: every page that can be reached is looked at before LMDB maps the file.

use std::{collections::HashSet, fs::File, io};

use super::pages::{Behind, DEPTH_MAX, Meta, Page, PagesError, is_whole_overflow};

/// Whether the file is empty, which is a new table, or a table of which every page that can be reached is whole.
pub(super) fn is_whole(file: &File) -> io::Result<bool> {
    let walked = Meta::read(file).and_then(|meta| {
        let Some(meta) = meta else { return Ok(()) };
        let mut walk = Walk {
            file,
            meta: &meta,
            seen: HashSet::new(),
        };
        meta.roots().try_for_each(|root| walk.pages_from(root, 1))
    });
    match walked {
        Ok(()) => Ok(true),
        Err(PagesError::Damaged) => Ok(false),
        Err(PagesError::Io(error)) => Err(error),
    }
}

struct Walk<'a> {
    file: &'a File,
    meta: &'a Meta,
    seen: HashSet<u64>,
}

impl Walk<'_> {
    /// Looks at a page and all beneath it.
    fn pages_from(&mut self, number: u64, depth: usize) -> Result<(), PagesError> {
        if depth > DEPTH_MAX || !self.seen.insert(number) {
            return Err(PagesError::Damaged);
        }
        let page = Page::read(self.file, self.meta, number)?;
        for index in 0..page.len() {
            match page.node(index).1 {
                Behind::Value(_) => {}
                Behind::Child(child) => self.pages_from(child, depth + 1)?,
                Behind::Overflow(first, octets) => {
                    let is_new = self.seen.insert(first);
                    if !is_new || !is_whole_overflow(self.file, self.meta, first, octets)? {
                        return Err(PagesError::Damaged);
                    }
                }
            }
        }
        Ok(())
    }
}
