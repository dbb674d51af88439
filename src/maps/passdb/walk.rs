//! Everything that lies in the tree, whoever put it there.

use std::{
    fs::{self, FileType, ReadDir},
    io,
    path::{Path, PathBuf},
};

use super::PassdbTree;
use crate::{
    maps::{Error, file_error, verified_passwords},
    model::address::{DomainName, LocalPart},
};

/// Something in the tree.
#[derive(Debug)]
pub(in crate::maps) enum Found {
    /// The folder of a domain; what is in it comes next.
    Folder(PathBuf),
    /// A file where an entry may be.
    Entry {
        /// Which address it is named for.
        local_part: LocalPart,
        /// Its domain.
        domain: DomainName,
    },
    /// Something that cannot be an entry.
    Stray(PathBuf, FileType),
}

/// A walk through the tree, in the order of the file system.
#[derive(Debug)]
pub(in crate::maps) struct Walk {
    root: PathBuf,
    domains: ReadDir,
    inside: Option<(DomainName, PathBuf, ReadDir)>,
}

impl PassdbTree {
    pub(in crate::maps) fn walk(&self) -> Result<Walk, Error> {
        Ok(Walk {
            domains: list(&self.root)?,
            root: self.root.clone(),
            inside: None,
        })
    }
}

impl Walk {
    pub(in crate::maps) fn next(&mut self) -> Result<Option<Found>, Error> {
        if let Some((domain, folder, entries)) = &mut self.inside {
            if let Some(entry) = entries.next() {
                return found_in(domain, folder, entry).map(Some);
            }
            self.inside = None;
        }
        let doing = "list the folder";
        let (entry, kind, path) = loop {
            let Some(entry) = self.domains.next() else {
                return Ok(None);
            };
            let entry = entry.map_err(file_error(doing, &self.root))?;
            let kind = entry.file_type().map_err(file_error(doing, &self.root))?;
            let path = entry.path();
            // No entries are in it, and it is not left over from anything.
            if !verified_passwords::is_folder(&path, kind) {
                break (entry, kind, path);
            }
        };
        let domain = entry.file_name().into_string().ok().and_then(|name| {
            let domain = DomainName::parse(&name).ok()?;
            (domain.as_str() == name).then_some(domain)
        });
        let Some(domain) = domain.filter(|_| kind.is_dir()) else {
            return Ok(Some(Found::Stray(path, kind)));
        };
        self.inside = Some((domain, path.clone(), list(&path)?));
        Ok(Some(Found::Folder(path)))
    }
}

fn found_in(domain: &DomainName, folder: &Path, entry: io::Result<fs::DirEntry>) -> Result<Found, Error> {
    let doing = "list the folder";
    let entry = entry.map_err(file_error(doing, folder))?;
    let kind = entry.file_type().map_err(file_error(doing, folder))?;
    let name = entry.file_name();
    let local_part = name.to_str().and_then(|name| LocalPart::parse(name).ok());
    Ok(match local_part {
        Some(local_part) if kind.is_file() => Found::Entry {
            local_part,
            domain: domain.clone(),
        },
        _ => Found::Stray(entry.path(), kind),
    })
}

fn list(folder: &Path) -> Result<ReadDir, Error> {
    fs::read_dir(folder).map_err(file_error("list the folder", folder))
}
