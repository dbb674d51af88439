//! Whether a table's file is whole: every page that can be reached is looked at before LMDB maps the file.
//!
//! A page that is sound in itself may be one of an earlier state, where a power cut came in the middle of a flush. What
//! such a page says is put right by comparing with the store; where it stands must be right for that. So keys must be in
//! order all over the tree, or a look-up misses what a walk finds; and no page may be in use and in the list of free
//! pages at once, or LMDB gives it away a second time, and ends this process when it notices.

use std::{cmp::Ordering, collections::HashSet, fs::File, io};

use super::pages::{Behind, DEPTH_MAX, Meta, Page, PagesError, Tree, long, overflow_pages, overflow_value};

/// Whether the file is empty, which is a new table, or a table of which every page that can be reached is whole and in
/// its place.
pub(super) fn is_whole(file: &File) -> io::Result<bool> {
    let walked = Meta::read(file).and_then(|meta| {
        let Some(meta) = meta else { return Ok(()) };
        let mut walk = Walk {
            file,
            meta: &meta,
            seen: HashSet::new(),
            entries: 0,
            free: Vec::new(),
        };
        walk.tree(&meta.main, Kind::Main)?;
        walk.tree(&meta.free, Kind::Free)?;
        walk.free_list()
    });
    match walked {
        Ok(()) => Ok(true),
        Err(PagesError::Damaged) => Ok(false),
        Err(PagesError::Io(error)) => Err(error),
    }
}

/// Which of the two databases: they order their keys differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Main,
}

impl Kind {
    /// Whether a key is one of this database at all.
    fn has(self, key: &[u8]) -> bool {
        self == Self::Main || key.len() == size_of::<u64>()
    }

    fn compare(self, one: &[u8], other: &[u8]) -> Ordering {
        match self {
            Self::Main => one.cmp(other),
            Self::Free => long(one, 0).cmp(&long(other, 0)),
        }
    }
}

struct Walk<'a> {
    file: &'a File,
    meta: &'a Meta,
    /// Pages in use.
    seen: HashSet<u64>,
    /// Entries of the tree that is walked.
    entries: u64,
    /// What the list of free pages says.
    free: Vec<u64>,
}

/// Between which keys those of a page must be: from the first, up to and without the second; none where there is no end.
type Bounds<'b> = (Option<&'b [u8]>, Option<&'b [u8]>);

impl Walk<'_> {
    fn tree(&mut self, tree: &Tree, kind: Kind) -> Result<(), PagesError> {
        self.entries = 0;
        match tree.root() {
            None => sound(tree.depth == 0)?,
            Some(root) => {
                sound((1..=DEPTH_MAX).contains(&tree.depth))?;
                self.pages_from(root, tree.depth, kind, (None, None))?;
            }
        }
        sound(self.entries == tree.entries)
    }

    /// Looks at a page and all beneath it, which are so many levels.
    fn pages_from(
        &mut self,
        number: u64,
        levels: usize,
        kind: Kind,
        within: Bounds<'_>,
    ) -> Result<(), PagesError> {
        sound(self.seen.insert(number))?;
        let page = Page::read(self.file, self.meta, number)?;
        sound(page.is_branch() == (levels > 1) && is_in_order(&page, kind, within))?;
        for index in 0..page.len() {
            let (key, behind) = page.node(index);
            match behind {
                Behind::Child(child) => {
                    let begin = if index == 0 { within.0 } else { Some(key) };
                    let is_last = index + 1 == page.len();
                    let end = if is_last {
                        within.1
                    } else {
                        Some(page.node(index + 1).0)
                    };
                    self.pages_from(child, levels - 1, kind, (begin, end))?;
                }
                Behind::Value(value) => {
                    self.entries += 1;
                    if kind == Kind::Free {
                        self.freed(key, value)?;
                    }
                }
                Behind::Overflow(first, octets) => {
                    self.entries += 1;
                    for page in overflow_pages(self.file, self.meta, first, octets)? {
                        sound(self.seen.insert(page))?;
                    }
                    if kind == Kind::Free {
                        self.freed(key, &overflow_value(self.file, self.meta, first, octets)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// An entry of the list of free pages: a count, and so many numbers of pages; what is behind them is room.
    fn freed(&mut self, transaction: &[u8], value: &[u8]) -> Result<(), PagesError> {
        let numbers: Vec<u64> = value.chunks_exact(8).map(|number| long(number, 0)).collect();
        let (&count, pages) = numbers.split_first().ok_or(PagesError::Damaged)?;
        let count = usize::try_from(count).map_err(|_| PagesError::Damaged)?;
        let pages = pages.get(..count).ok_or(PagesError::Damaged)?;
        self.free.extend(pages);
        // The greatest number first.
        let is_ordered = pages.is_sorted_by(|one, next| one > next);
        sound(is_ordered && long(transaction, 0) <= self.meta.transaction)
    }

    /// Whether every page is free once at most, and none that is in use.
    fn free_list(&mut self) -> Result<(), PagesError> {
        let Self { free, seen, meta, .. } = self;
        sound(free.iter().all(|&page| meta.was_used(page) && seen.insert(page)))
    }
}

/// Whether the keys of a page are in order, and within these bounds.
fn is_in_order(page: &Page, kind: Kind, within: Bounds<'_>) -> bool {
    // The first key of a branch page is not written: it stands for the least there is.
    let begin = usize::from(page.is_branch());
    let mut last = within.0;
    for index in begin..page.len() {
        let key = page.node(index).0;
        let is_behind = |last: &[u8]| match kind.compare(last, key) {
            Ordering::Less => true,
            // The first one may be the bound itself, but not beside a child that begins there.
            Ordering::Equal => index == 0,
            Ordering::Greater => false,
        };
        if !kind.has(key) || !last.is_none_or(is_behind) {
            return false;
        }
        last = Some(key);
    }
    match (last, within.1) {
        (Some(last), Some(end)) => kind.compare(last, end) == Ordering::Less,
        _ => true,
    }
}

fn sound(is_sound: bool) -> Result<(), PagesError> {
    if is_sound {
        Ok(())
    } else {
        Err(PagesError::Damaged)
    }
}
