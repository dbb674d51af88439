//! Whether a table's file is whole, found out without LMDB.
//!
//! LMDB maps the file and trusts what it finds: a page that a power cut left unwritten, or a file that ends too
//! early, is not an error to it but the end of this process (SIGBUS), at this start and at every later one. So every
//! page that can be reached is looked at first, by reading.
//!
//! A page that is sound in itself may be one of an earlier state, where the cut came in the middle of a flush. What such
//! a page says is put right by comparing with the store; where it stands must be right for that. So keys must be in
//! order all over the tree, or a look-up misses what a walk finds; and no page may be in use and in the list of free
//! pages at once, or LMDB gives it away a second time, and ends this process when it notices.
//!
//! The format is that of LMDB 0.9 (`mdb.c`: `MDB_page`, `MDB_node`, `MDB_meta`, `MDB_IDL`), in the byte order of the
//! machine.

use std::{collections::HashSet, fs::File, io, ops::Range, os::unix::fs::FileExt};

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
/// Deepest tree that LMDB can walk.
const DEPTH_MAX: usize = 32;

/// What one of the two meta pages says; the one of the later transaction counts.
struct Meta {
    page_octets: usize,
    /// The list of free pages: transaction to pages that it freed.
    free: Tree,
    /// The table.
    main: Tree,
    last_page: u64,
    transaction: u64,
}

/// The record of a database.
struct Tree {
    root: u64,
    depth: usize,
    entries: u64,
}

/// Whether the file is empty, which is a new table, or a table of which every page that can be reached is whole and in
/// its place.
pub(super) fn is_whole(file: &File) -> io::Result<bool> {
    let octets = file.metadata()?.len();
    if octets == 0 {
        return Ok(true);
    }
    let Some(first) = read_meta(file, 0)? else {
        return Ok(false);
    };
    let Some(second) = read_meta(file, first.page_octets as u64)? else {
        return Ok(false);
    };
    let meta = if second.transaction > first.transaction {
        second
    } else {
        first
    };
    let mut walk = Walk {
        file,
        meta: &meta,
        pages: octets / meta.page_octets as u64,
        seen: HashSet::new(),
        entries: 0,
        free: Vec::new(),
    };
    Ok(walk.is_tree(&meta.main, Kind::Main)? && walk.is_tree(&meta.free, Kind::Free)? && walk.is_free_list())
}

fn read_meta(file: &File, offset: u64) -> io::Result<Option<Meta>> {
    let mut page = [0; META_OCTETS];
    match file.read_exact_at(&mut page, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let databases = PAGE_HEADER + 24;
    let tree = |database: usize| {
        let record = databases + database * DATABASE_OCTETS;
        Tree {
            depth: short(&page, record + 6).into(),
            entries: long(&page, record + 32),
            root: long(&page, record + 40),
        }
    };
    let meta = Meta {
        // The free list's record keeps the size of pages where others keep padding.
        page_octets: word(&page, databases) as usize,
        free: tree(0),
        main: tree(1),
        last_page: long(&page, databases + 2 * DATABASE_OCTETS),
        transaction: long(&page, databases + 2 * DATABASE_OCTETS + 8),
    };
    let is_meta = short(&page, 10) & META != 0
        && word(&page, PAGE_HEADER) == MAGIC
        && word(&page, PAGE_HEADER + 4) == DATA_VERSION
        && meta.page_octets.is_power_of_two()
        && (512..=65_536).contains(&meta.page_octets);
    Ok(is_meta.then_some(meta))
}

/// Which of the two databases: they order their keys differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Main,
}

impl Kind {
    /// A key in a form whose octets are in the order of the keys.
    fn key(self, key: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Main => Some(key.to_vec()),
            Self::Free => Some(u64::from_ne_bytes(key.try_into().ok()?).to_be_bytes().to_vec()),
        }
    }
}

struct Walk<'a> {
    file: &'a File,
    meta: &'a Meta,
    pages: u64,
    /// Pages in use.
    seen: HashSet<u64>,
    /// Entries of the tree that is walked.
    entries: u64,
    /// What the list of free pages says.
    free: Vec<u64>,
}

/// Between which keys those of a page must be: from the first, up to and without the second.
type Bounds<'b> = (&'b [u8], Option<&'b [u8]>);

impl Walk<'_> {
    fn is_tree(&mut self, tree: &Tree, kind: Kind) -> io::Result<bool> {
        self.entries = 0;
        let is_whole = tree.root == NO_PAGE && tree.depth == 0
            || (1..=DEPTH_MAX).contains(&tree.depth)
                && self.is_whole(tree.root, tree.depth, kind, (&[], None))?;
        Ok(is_whole && self.entries == tree.entries)
    }

    /// Whether a page and all beneath it are whole and within these bounds; so many levels must there be.
    fn is_whole(&mut self, number: u64, levels: usize, kind: Kind, within: Bounds<'_>) -> io::Result<bool> {
        if levels == 0 || !self.exists(number) || !self.seen.insert(number) {
            return Ok(false);
        }
        let mut page = vec![0; self.meta.page_octets];
        self.file
            .read_exact_at(&mut page, number * self.meta.page_octets as u64)?;
        let flags = short(&page, 10) & (BRANCH | LEAF | OVERFLOW | META | OF_DUPLICATES);
        let (lower, upper) = (usize::from(short(&page, 12)), usize::from(short(&page, 14)));
        let is_sound = long(&page, 0) == number
            && flags == if levels == 1 { LEAF } else { BRANCH }
            && (PAGE_HEADER + 2..=upper).contains(&lower)
            && upper <= page.len();
        if !is_sound {
            return Ok(false);
        }
        let nodes: Option<Vec<Node>> = (PAGE_HEADER..lower - 1)
            .step_by(2)
            .map(|entry| Node::read(&page, usize::from(short(&page, entry)), upper))
            .collect();
        let Some(nodes) = nodes else { return Ok(false) };
        // The first key of a branch page is not written: it stands for the least there is.
        let keys: Option<Vec<Vec<u8>>> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| match (flags, index) {
                (BRANCH, 0) => Some(within.0.to_vec()),
                _ => kind.key(&page[node.key.clone()]),
            })
            .collect();
        let Some(keys) = keys else { return Ok(false) };
        let is_ordered = keys.is_sorted_by(|one, next| one < next)
            && keys.first().is_none_or(|first| **first >= *within.0)
            && keys
                .last()
                .is_none_or(|last| within.1.is_none_or(|end| **last < *end));
        if !is_ordered {
            return Ok(false);
        }
        for (index, node) in nodes.iter().enumerate() {
            let is_whole = if flags == BRANCH {
                let end = keys.get(index + 1).map(Vec::as_slice).or(within.1);
                self.is_whole(node.child(), levels - 1, kind, (&keys[index], end))?
            } else {
                self.is_entry(&page, node, kind)?
            };
            if !is_whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the value of an entry is there; of the list of free pages, which pages it names.
    fn is_entry(&mut self, page: &[u8], node: &Node, kind: Kind) -> io::Result<bool> {
        self.entries += 1;
        let (data, size) = (node.key.end, node.size());
        let value = if node.flags == BIG {
            if data + 8 > page.len() || !self.is_whole_overflow(long(page, data), size)? {
                return Ok(false);
            }
            if kind == Kind::Main {
                return Ok(true);
            }
            let mut value = vec![0; usize::try_from(size).unwrap_or_default()];
            let begin = long(page, data) * self.meta.page_octets as u64 + PAGE_HEADER as u64;
            self.file.read_exact_at(&mut value, begin)?;
            value
        } else if node.flags == 0 && data as u64 + size <= page.len() as u64 {
            page[data..data + usize::try_from(size).unwrap_or_default()].to_vec()
        } else {
            return Ok(false);
        };
        if kind == Kind::Main {
            return Ok(true);
        }
        // A count, and so many numbers of pages; what is behind them is room.
        let transaction = long(page, node.key.start);
        let numbers: Vec<u64> = value.chunks_exact(8).map(|number| long(number, 0)).collect();
        let Some((&count, pages)) = numbers.split_first() else {
            return Ok(false);
        };
        let Some(pages) = usize::try_from(count).ok().and_then(|count| pages.get(..count)) else {
            return Ok(false);
        };
        self.free.extend(pages);
        // The greatest number first.
        Ok(transaction <= self.meta.transaction && pages.is_sorted_by(|one, next| one > next))
    }

    /// Whether every page is free once at most, and none that is in use.
    fn is_free_list(&mut self) -> bool {
        let Self { free, seen, meta, .. } = self;
        free.iter()
            .all(|page| (2..=meta.last_page).contains(page) && seen.insert(*page))
    }

    /// Whether the pages of one large value are there.
    fn is_whole_overflow(&mut self, number: u64, octets: u64) -> io::Result<bool> {
        if !self.exists(number) || !self.seen.insert(number) {
            return Ok(false);
        }
        let mut header = [0; PAGE_HEADER];
        let size = self.meta.page_octets as u64;
        self.file.read_exact_at(&mut header, number * size)?;
        let pages = u64::from(word(&header, 12));
        Ok(long(&header, 0) == number
            && short(&header, 10) & OVERFLOW != 0
            && octets + PAGE_HEADER as u64 <= pages * size
            && self.exists(number + pages - 1)
            && (number + 1..number + pages).all(|page| self.seen.insert(page)))
    }

    fn exists(&self, number: u64) -> bool {
        (2..=self.meta.last_page).contains(&number) && number < self.pages
    }
}

/// One entry of a page.
struct Node {
    key: Range<usize>,
    /// Size of the value, or number of the child's page: three parts of it.
    low: u16,
    high: u16,
    flags: u16,
}

impl Node {
    /// The node at this place of a page, whose nodes begin at `begin`.
    fn read(page: &[u8], at: usize, begin: usize) -> Option<Self> {
        if at < begin || at + NODE_HEADER > page.len() {
            return None;
        }
        let [low, high, flags, key_octets] = [0, 2, 4, 6].map(|offset| short(page, at + offset));
        let key = at + NODE_HEADER..at + NODE_HEADER + usize::from(key_octets);
        (key.end <= page.len()).then_some(Self {
            key,
            low,
            high,
            flags,
        })
    }

    fn size(&self) -> u64 {
        u64::from(self.low) | u64::from(self.high) << 16
    }

    fn child(&self) -> u64 {
        self.size() | u64::from(self.flags) << 32
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

fn long(octets: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&octets[at..at + 8]);
    u64::from_ne_bytes(long)
}
