//! Whether a table's file is whole, found out without LMDB.
//!
//! LMDB maps the file and trusts what it finds: a page that a power cut left unwritten, or a file that ends too
//! early, is not an error to it but the end of this process (SIGBUS), at this start and at every later one. So every
//! page that can be reached is looked at first, by reading. The format is that of LMDB 0.9 (`mdb.c`: `MDB_page`,
//! `MDB_node`, `MDB_meta`), in the byte order of the machine.

use std::{collections::HashSet, fs::File, io, os::unix::fs::FileExt};

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
/// Of a node: the value lies on overflow pages.
const BIG: u16 = 0x01;
/// Deepest tree that LMDB can walk.
const DEPTH_MAX: usize = 32;

/// What one of the two meta pages says; the one of the later transaction counts.
struct Meta {
    page_octets: usize,
    roots: [u64; 2],
    last_page: u64,
    transaction: u64,
}

/// Whether the file is empty, which is a new table, or a table of which every page that can be reached is whole.
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
    };
    for root in meta.roots {
        if root != NO_PAGE && !walk.is_whole(root, 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_meta(file: &File, offset: u64) -> io::Result<Option<Meta>> {
    let mut page = [0; META_OCTETS];
    match file.read_exact_at(&mut page, offset) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let databases = PAGE_HEADER + 24;
    let root = |database: usize| long(&page, databases + database * DATABASE_OCTETS + 40);
    let meta = Meta {
        // The free list's record keeps the size of pages where others keep padding.
        page_octets: word(&page, databases) as usize,
        roots: [root(0), root(1)],
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

struct Walk<'a> {
    file: &'a File,
    meta: &'a Meta,
    pages: u64,
    seen: HashSet<u64>,
}

impl Walk<'_> {
    /// Whether a page and all beneath it are whole.
    fn is_whole(&mut self, number: u64, depth: usize) -> io::Result<bool> {
        if depth > DEPTH_MAX || !self.exists(number) || !self.seen.insert(number) {
            return Ok(false);
        }
        let mut page = vec![0; self.meta.page_octets];
        self.file
            .read_exact_at(&mut page, number * self.meta.page_octets as u64)?;
        let flags = short(&page, 10) & (BRANCH | LEAF | OVERFLOW | META);
        let (lower, upper) = (usize::from(short(&page, 12)), usize::from(short(&page, 14)));
        let is_sound = long(&page, 0) == number
            && (flags == BRANCH || flags == LEAF)
            && (PAGE_HEADER + 2..=upper).contains(&lower)
            && upper <= page.len();
        if !is_sound {
            return Ok(false);
        }
        for entry in (PAGE_HEADER..lower - 1).step_by(2) {
            let node = usize::from(short(&page, entry));
            if node < upper || node + NODE_HEADER > page.len() {
                return Ok(false);
            }
            let [low, high, node_flags, key] = [0, 2, 4, 6].map(|at| short(&page, node + at));
            let data = node + NODE_HEADER + usize::from(key);
            let size = u64::from(low) | u64::from(high) << 16;
            let is_whole = if flags == BRANCH {
                data <= page.len() && self.is_whole(size | u64::from(node_flags) << 32, depth + 1)?
            } else if node_flags & BIG != 0 {
                data + 8 <= page.len() && self.is_whole_overflow(long(&page, data), size)?
            } else {
                data as u64 + size <= page.len() as u64
            };
            if !is_whole {
                return Ok(false);
            }
        }
        Ok(true)
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
            && self.exists(number + pages - 1))
    }

    fn exists(&self, number: u64) -> bool {
        (2..=self.meta.last_page).contains(&number) && number < self.pages
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
