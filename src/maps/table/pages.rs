//! The pages of a table, read without LMDB.
//!
//! LMDB maps the file and trusts what it finds: a page that a power cut left unwritten, or a file that ends too early, is
//! not an error to it but the end of this process (SIGBUS). And what it has mapped and looked at counts as this
//! process's memory. So whoever only looks reads instead: page by page, each one checked before it is believed. The
//! format is that of LMDB 0.9 (`mdb.c`: `MDB_page`, `MDB_node`, `MDB_meta`, `MDB_IDL`), in the byte order of the machine.

use std::{cmp::Ordering, fs::File, io, ops::Range, os::unix::fs::FileExt};

use super::Entry;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
const META_OCTETS: usize = PAGE_HEADER + 136;
/// Octets of one database's record within a meta page: the free list's and the main one's.
const DATABASE_OCTETS: usize = 48;
/// Root of a database that has no entry.
const NO_PAGE: u64 = u64::MAX;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
/// Pages of databases with several values a key, which none of ours is.
const OF_DUPLICATES: u16 = 0x20 | 0x40;
/// Of a node: the value lies on overflow pages.
const BIG: u16 = 0x01;
/// No value that inboxd writes is longer: the longest are a few sealed keys.
const VALUE_MAX_OCTETS: u64 = 16 * 1024;
/// Deepest tree that LMDB can walk.
pub(super) const DEPTH_MAX: usize = 32;

/// What a table could not be read for.
#[derive(Debug, thiserror::Error)]
pub(super) enum PagesError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Pages of it are missing or are no pages.
    #[error("it is damaged")]
    Damaged,
}

/// What one of the two meta pages says.
pub(super) struct Meta {
    page_octets: usize,
    /// The list of free pages: transaction to pages that it freed.
    pub(super) free: Tree,
    /// The table itself.
    pub(super) main: Tree,
    last_page: u64,
    pub(super) transaction: u64,
    /// Pages that the file has room for.
    pages: u64,
}

/// The record of a database.
pub(super) struct Tree {
    root: u64,
    pub(super) depth: usize,
    pub(super) entries: u64,
}

impl Tree {
    /// Its root, if it has entries.
    pub(super) fn root(&self) -> Option<u64> {
        (self.root != NO_PAGE).then_some(self.root)
    }
}

impl Meta {
    /// The meta page of the latest transaction. None of a file that is empty: a new table.
    pub(super) fn read(file: &File) -> Result<Option<Self>, PagesError> {
        let octets = file.metadata()?.len();
        if octets == 0 {
            return Ok(None);
        }
        let first = Self::read_at(file, 0, octets)?;
        let second = Self::read_at(file, first.page_octets as u64, octets)?;
        Ok(Some(if second.transaction > first.transaction {
            second
        } else {
            first
        }))
    }

    fn read_at(file: &File, offset: u64, octets: u64) -> Result<Self, PagesError> {
        let mut page = [0; META_OCTETS];
        read_exact(file, &mut page, offset)?;
        let databases = PAGE_HEADER + 24;
        let tree = |database: usize| {
            let record = databases + database * DATABASE_OCTETS;
            Tree {
                depth: short(&page, record + 6).into(),
                entries: long(&page, record + 32),
                root: long(&page, record + 40),
            }
        };
        // The free list's record keeps the size of pages where others keep padding.
        let page_octets = word(&page, databases) as usize;
        let is_meta = short(&page, 10) & META != 0
            && word(&page, PAGE_HEADER) == MAGIC
            && word(&page, PAGE_HEADER + 4) == DATA_VERSION
            && page_octets.is_power_of_two()
            && (512..=65_536).contains(&page_octets);
        if !is_meta {
            return Err(PagesError::Damaged);
        }
        Ok(Self {
            page_octets,
            free: tree(0),
            main: tree(1),
            last_page: long(&page, databases + 2 * DATABASE_OCTETS),
            transaction: long(&page, databases + 2 * DATABASE_OCTETS + 8),
            pages: octets / page_octets as u64,
        })
    }

    /// Whether a page of this number was ever in use.
    pub(super) fn was_used(&self, number: u64) -> bool {
        (2..=self.last_page).contains(&number)
    }

    fn exists(&self, number: u64) -> bool {
        self.was_used(number) && number < self.pages
    }
}

/// A page of the tree, every node of which lies within it.
pub(super) struct Page {
    octets: Vec<u8>,
    is_branch: bool,
    /// Offsets of the nodes, in order of their keys.
    nodes: Range<usize>,
}

/// What stands behind a key.
#[derive(Clone, Copy)]
pub(super) enum Behind<'a> {
    /// The page of the keys from this one on.
    Child(u64),
    /// The value.
    Value(&'a [u8]),
    /// A value on pages of its own: the first of them, and its length in octets.
    Overflow(u64, u64),
}

impl Page {
    /// Reads and checks a page.
    pub(super) fn read(file: &File, meta: &Meta, number: u64) -> Result<Self, PagesError> {
        if !meta.exists(number) {
            return Err(PagesError::Damaged);
        }
        let mut octets = vec![0; meta.page_octets];
        read_exact(file, &mut octets, number * meta.page_octets as u64)?;
        let flags = short(&octets, 10) & (BRANCH | LEAF | OVERFLOW | META | OF_DUPLICATES);
        let (lower, upper) = (usize::from(short(&octets, 12)), usize::from(short(&octets, 14)));
        let is_sound = long(&octets, 0) == number
            && (flags == BRANCH || flags == LEAF)
            && (PAGE_HEADER + 2..=upper).contains(&lower)
            && upper <= octets.len();
        if !is_sound {
            return Err(PagesError::Damaged);
        }
        let page = Self {
            octets,
            is_branch: flags == BRANCH,
            nodes: PAGE_HEADER..lower - 1,
        };
        if (0..page.len()).all(|index| page.is_within(index, upper)) {
            Ok(page)
        } else {
            Err(PagesError::Damaged)
        }
    }

    pub(super) fn is_branch(&self) -> bool {
        self.is_branch
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len().div_ceil(2)
    }

    fn is_within(&self, index: usize, upper: usize) -> bool {
        let page = &self.octets;
        let node = usize::from(short(page, self.nodes.start + index * 2));
        if node < upper || node + NODE_HEADER > page.len() {
            return false;
        }
        let [low, high, flags, key] = [0, 2, 4, 6].map(|at| short(page, node + at));
        let data = node + NODE_HEADER + usize::from(key);
        let size = usize::from(low) | usize::from(high) << 16;
        let octets = match (self.is_branch, flags) {
            (true, _) => 0,
            (false, BIG) => 8,
            (false, 0) => size,
            (false, _) => return false,
        };
        data + octets <= page.len()
    }

    /// A node: its key, and what stands behind it.
    pub(super) fn node(&self, index: usize) -> (&[u8], Behind<'_>) {
        let page = &self.octets;
        let node = usize::from(short(page, self.nodes.start + index * 2));
        let [low, high, flags, key] = [0, 2, 4, 6].map(|at| short(page, node + at));
        let data = node + NODE_HEADER + usize::from(key);
        let size = u64::from(low) | u64::from(high) << 16;
        let behind = if self.is_branch {
            Behind::Child(size | u64::from(flags) << 32)
        } else if flags == BIG {
            Behind::Overflow(long(page, data), size)
        } else {
            let end = data + usize::from(low) + (usize::from(high) << 16);
            Behind::Value(&page[data..end])
        };
        (&page[node + NODE_HEADER..data], behind)
    }
}

/// The pages of one large value, all of which are there.
pub(super) fn overflow_pages(
    file: &File,
    meta: &Meta,
    number: u64,
    octets: u64,
) -> Result<Range<u64>, PagesError> {
    if !meta.exists(number) {
        return Err(PagesError::Damaged);
    }
    let mut header = [0; PAGE_HEADER];
    let size = meta.page_octets as u64;
    read_exact(file, &mut header, number * size)?;
    let pages = u64::from(word(&header, 12));
    let is_whole = long(&header, 0) == number
        && short(&header, 10) & OVERFLOW != 0
        && octets + PAGE_HEADER as u64 <= pages * size
        && meta.exists(number + pages - 1);
    if is_whole {
        Ok(number..number + pages)
    } else {
        Err(PagesError::Damaged)
    }
}

/// A value on pages of its own, which [are there](overflow_pages).
pub(super) fn overflow_value(
    file: &File,
    meta: &Meta,
    number: u64,
    octets: u64,
) -> Result<Vec<u8>, PagesError> {
    let mut value = vec![0; usize::try_from(octets).map_err(|_| PagesError::Damaged)?];
    read_exact(
        file,
        &mut value,
        number * meta.page_octets as u64 + PAGE_HEADER as u64,
    )?;
    Ok(value)
}

/// The entries behind a key (from the first one without it), in order of their keys, as many as `limit` of them.
pub(super) fn entries_after(
    file: &File,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Entry>, PagesError> {
    let Some(meta) = Meta::read(file)? else {
        return Ok(Vec::new());
    };
    let mut search = Search {
        file,
        pages_left: meta.pages,
        after,
        limit,
        found: Vec::new(),
    };
    if let Some(root) = meta.main.root() {
        search.pages_from(&meta, root, 1)?;
    }
    Ok(search.found)
}

struct Search<'a> {
    file: &'a File,
    /// Pages that may still be read: no tree has more of them than its file.
    pages_left: u64,
    after: Option<&'a [u8]>,
    limit: usize,
    found: Vec<Entry>,
}

impl Search<'_> {
    fn pages_from(&mut self, meta: &Meta, number: u64, depth: usize) -> Result<(), PagesError> {
        if depth > DEPTH_MAX || self.pages_left == 0 {
            return Err(PagesError::Damaged);
        }
        self.pages_left -= 1;
        let page = Page::read(self.file, meta, number)?;
        let begin = self.after.map_or(0, |after| first_of_interest(&page, after));
        for index in begin..page.len() {
            if self.found.len() >= self.limit {
                break;
            }
            match page.node(index) {
                (_, Behind::Child(child)) => self.pages_from(meta, child, depth + 1)?,
                (key, Behind::Value(value)) => self.found.push((key.to_vec(), Some(value.to_vec()))),
                (key, Behind::Overflow(first, octets)) if octets <= VALUE_MAX_OCTETS => {
                    overflow_pages(self.file, meta, first, octets)?;
                    let value = overflow_value(self.file, meta, first, octets)?;
                    self.found.push((key.to_vec(), Some(value)));
                }
                (key, Behind::Overflow(..)) => self.found.push((key.to_vec(), None)),
            }
        }
        Ok(())
    }
}

/// The first node that is, or may lead to, something behind a key.
fn first_of_interest(page: &Page, after: &[u8]) -> usize {
    let (mut low, mut high) = (0, page.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        // The first key of a branch page stands for everything before the second one, and is not written.
        let is_behind = match page.node(middle) {
            (_, Behind::Child(_)) if middle == 0 => false,
            (key, _) => key.cmp(after) == Ordering::Greater,
        };
        if is_behind {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    match page.node(0) {
        (_, Behind::Child(_)) => low.saturating_sub(1),
        _ => low,
    }
}

fn read_exact(file: &File, octets: &mut [u8], offset: u64) -> Result<(), PagesError> {
    match file.read_exact_at(octets, offset) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(PagesError::Damaged),
        Err(error) => Err(error.into()),
    }
}

fn short(octets: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([octets[at], octets[at + 1]])
}

fn word(octets: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&octets[at..at + 4]);
    u32::from_ne_bytes(word)
}

pub(super) fn long(octets: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&octets[at..at + 8]);
    u64::from_ne_bytes(long)
}
